"""A drafter whose passes are watched: how many, how long, and at which rank it proposed what the
target then chose. Stands in front of any ``Drafter``; changes nothing of what that does.
"""

import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from specedge.engine.ports import Drafter, DraftSession, Expansion
from specedge.params import SamplingParams
from specedge.tree.path import Rerooting, find_path
from specedge.tree.token_tree import IntArray, TokenTree

NOT_PROPOSED: Final = -1
_ROOT: Final = np.zeros(1, dtype=np.int32)
_NO_NODES: Final = np.empty(0, dtype=np.int32)


@dataclass(slots=True, eq=False)
class Watched:
    """What was seen of the drafting of one text, ``text`` (t,) int32 being prompt and output.

    pass_s, pass_rows  of each pass, in order: seconds, and nodes expanded
    rank  by 0-based index in the text: which of the children proposed there its token was, from 0,
          or NOT_PROPOSED
    """

    text: IntArray
    pass_s: list[float] = field(default_factory=list)
    pass_rows: list[int] = field(default_factory=list)
    rank: dict[int, int] = field(default_factory=dict)

    def note(self, base: int, tree: TokenTree, nodes: IntArray, proposed: Expansion) -> None:
        """``base`` tokens of the text were committed when ``nodes`` were expanded."""
        rest = self.text[base:]
        on_text = {0: 0} | {int(node): d + 1 for d, node in enumerate(find_path(tree, rest))}
        for row, node in enumerate(nodes.tolist()):
            depth = on_text.get(node)
            if depth is None or depth >= len(rest):
                continue
            found = np.flatnonzero(proposed.token[row] == rest[depth])
            self.rank.setdefault(base + depth, int(found[0]) if len(found) else NOT_PROPOSED)


class WatchedDrafter:
    """``Drafter``. The next session that is opened is seen by what ``watch`` returned."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._watched = Watched(_NO_NODES)

    @property
    def name(self) -> str:
        """The drafter's own."""
        return self._drafter.name

    def watch(self, text: IntArray) -> Watched:
        """A new record, of the drafting of ``text``."""
        self._watched = Watched(text)
        return self._watched

    def open(self, committed: IntArray, params: SamplingParams) -> DraftSession:
        """See ``Drafter.open``."""
        session = self._drafter.open(committed, params)
        return _WatchedSession(session, self._watched, len(committed))

    def fill_ranks(self, watched: Watched, prompt_len: int, params: SamplingParams) -> None:
        """Ask the drafter about the places of the output at which no round did: behind a leaf that
        was accepted. Costs a pass each, which is not recorded."""
        places = [p for p in range(prompt_len, len(watched.text)) if p not in watched.rank]
        if not places:
            return
        base = places[0]
        session = self._drafter.open(watched.text[:base], params)
        for place in places:
            if place > base:
                jumped = watched.text[base:place]
                session.reroot(Rerooting(jumped, path=_NO_NODES, kept=_NO_NODES))
                base = place
            root = TokenTree.root_only(int(watched.text[base - 1]))
            watched.note(base, root, _ROOT, session.expand(root, _ROOT))
        session.close()


class _WatchedSession:
    """``DraftSession``."""

    def __init__(self, session: DraftSession, watched: Watched, base: int) -> None:
        self._session = session
        self._watched = watched
        self._base = base

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """See ``DraftSession.expand``."""
        begin = time.perf_counter()
        proposed = self._session.expand(tree, nodes)
        self._watched.pass_s.append(time.perf_counter() - begin)
        self._watched.pass_rows.append(len(nodes))
        self._watched.note(self._base, tree, nodes, proposed)
        return proposed

    def reroot(self, rerooting: Rerooting) -> None:
        """See ``DraftSession.reroot``."""
        self._base += len(rerooting.committed)
        self._session.reroot(rerooting)

    def close(self) -> None:
        """See ``DraftSession.close``."""
        self._session.close()
