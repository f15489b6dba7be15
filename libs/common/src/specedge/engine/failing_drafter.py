"""A drafter that breaks when told to, around any other: for tests of what an edge does then.

Imports no torch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from specedge.engine.ports import Drafter, DraftSession, Expansion, ReadingSession
from specedge.params import SamplingParams
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import IntArray, TokenTree

NAN: Final = "nan"

# What becomes of the pass of that number, counted from 0 over all sessions: an error is raised,
# NAN makes its scores NaN, None lets it be.
Fault = Callable[[int], "Exception | str | None"]


class FailingDrafter:
    """``Drafter`` that does as ``inner`` does, but for the passes that ``fault`` says something
    about. ``num_open`` counts its sessions that were not closed."""

    def __init__(self, inner: Drafter, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault
        self.num_passes = 0
        self.num_open = 0

    @property
    def name(self) -> str:
        """The inner one's."""
        return self._inner.name

    def open(self, committed: IntArray, params: SamplingParams) -> "FailingSession":
        """See ``Drafter.open``."""
        session = FailingSession(self, self._inner.open(committed, params))
        self.num_open += 1
        return session

    def next_fault(self) -> "Exception | str | None":
        """One more pass begins: what becomes of it."""
        fault = self._fault(self.num_passes)
        self.num_passes += 1
        return fault


class FailingSession:
    """A session of a ``FailingDrafter``."""

    def __init__(self, drafter: FailingDrafter, inner: DraftSession) -> None:
        self._drafter = drafter
        self._inner = inner
        self._is_open = True

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """See ``DraftSession.expand``."""
        fault = self._drafter.next_fault()
        if isinstance(fault, Exception):
            raise fault
        expansion = self._inner.expand(tree, nodes)
        if fault == NAN:
            return replace(expansion, logprob=np.full_like(expansion.logprob, np.nan))
        return expansion

    @property
    def num_unread(self) -> int:
        """See ``ReadingSession.num_unread``."""
        return self._inner.num_unread if isinstance(self._inner, ReadingSession) else 0

    def read(self, num_tokens: int) -> None:
        """See ``ReadingSession.read``: no pass of those that fail."""
        if isinstance(self._inner, ReadingSession):
            self._inner.read(num_tokens)

    def reroot(self, rerooting: Rerooting) -> None:
        """See ``DraftSession.reroot``."""
        self._inner.reroot(rerooting)

    def close(self) -> None:
        """See ``DraftSession.close``."""
        if self._is_open:
            self._is_open = False
            self._drafter.num_open -= 1
            self._inner.close()
