"""An emulated drafter whose sessions have to read their context. For tests."""

from collections.abc import Callable

from specedge.engine.emulated import EmulatedDrafter, EmulatedDraftSession, EmulatedText
from specedge.engine.ports import Expansion
from specedge.params import SamplingParams
from specedge.profiles import INSTANT
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import IntArray, TokenTree


class ReadingDrafter(EmulatedDrafter):
    """Always right. ``read`` are the sizes of the pieces, ``passed`` what the passes over a root
    had to compute; ``on_read`` is called, on the drafter's thread, with each piece."""

    def __init__(self, on_read: Callable[[], None] = lambda: None) -> None:
        super().__init__(EmulatedText(), agreement=(1.0,), profile=INSTANT)
        self.read: list[int] = []
        self.passed: list[int] = []
        self.on_read = on_read

    def open(self, committed: IntArray, params: SamplingParams) -> "ReadingSession":
        return ReadingSession(self, committed, params)


class ReadingSession(EmulatedDraftSession):
    """A session of a ``ReadingDrafter``."""

    def __init__(
        self, drafter: ReadingDrafter, committed: IntArray, params: SamplingParams
    ) -> None:
        super().__init__(drafter, committed, params)
        self._reader = drafter
        self.num_unread = len(committed)

    def read(self, num_tokens: int) -> None:
        assert num_tokens < self.num_unread
        self.num_unread -= num_tokens
        self._reader.read.append(num_tokens)
        self._reader.on_read()

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        if 0 in nodes:
            self._reader.passed.append(self.num_unread)
            self.num_unread = 0
        return super().expand(tree, nodes)

    def reroot(self, rerooting: Rerooting) -> None:
        super().reroot(rerooting)
        self.num_unread += len(rerooting.committed)
