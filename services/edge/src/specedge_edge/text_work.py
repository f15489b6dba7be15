"""Texts that are too long for the event loop: encoded and decoded on the compute thread, between
its drafts, some at a time."""

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from specedge.errors import Busy
from specedge.service.compute import Compute

P = ParamSpec("P")
T = TypeVar("T")

MAX_WAITING: Final = 64
RETRY_MS: Final = 1000


class TextWork:
    """At most ``max_waiting`` pieces wait: however many requests come at once, drafts and farewells
    find room at the thread."""

    def __init__(self, compute: Compute, max_waiting: int = MAX_WAITING) -> None:
        self._compute = compute
        self._max_waiting = max_waiting
        self._num_waiting = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` there; return or raise what it does. Raises Busy when too many wait.
        Cancelled before its turn, it never begins."""
        if self._num_waiting >= self._max_waiting:
            raise Busy("too many prompts wait to be encoded", retry_ms=RETRY_MS)
        self._num_waiting += 1
        try:
            return await self._compute.run(function, *args, **kwargs)
        finally:
            self._num_waiting -= 1
