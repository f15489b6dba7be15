"""Virtual time: what happens next, in order of its time and then of its asking. Pure."""

import heapq
from collections.abc import Callable
from typing import Any


class VirtualTime:
    """A queue of calls. One thread; a call may ask for more of them."""

    __slots__ = ("_calls", "_num_asked", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._num_asked = 0

    def call_at(self, when_s: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Call at ``when_s``, or as soon as what is due before is done. Cannot be taken back: who
        changes his mind looks at his own state when called."""
        self._num_asked += 1
        heapq.heappush(self._calls, (when_s, self._num_asked, callback, arguments))

    def run_until(self, end_s: float) -> None:
        """Let everything happen that falls due before ``end_s``."""
        calls, pop = self._calls, heapq.heappop
        while calls and calls[0][0] < end_s:
            when_s, _, callback, arguments = pop(calls)
            if when_s > self.now_s:
                self.now_s = when_s
            callback(*arguments)
        self.now_s = end_s
