"""The Clock and Timers ports, and the clock that tests turn by hand. Time is monotonic seconds."""

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Reads monotonic time. Only ``specedge.service.runtime`` implements it with the real clock."""

    def now_s(self) -> float:
        """Seconds since an arbitrary, fixed moment; never goes back."""
        ...


class Cancellable(Protocol):
    """A timer that can be taken back. Cancelling twice, or after it fired, does nothing."""

    def cancel(self) -> None:
        """Stop the timer from firing."""
        ...


class Timers(Clock, Protocol):
    """A clock that also calls back. Callbacks run in order of their time, then of their asking."""

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Cancellable:
        """Call ``callback`` once, at or soon after ``when_s``; at once on the next turn if past."""
        ...


class _ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """Time moves only by ``advance``; timers that fall due run inside that call, in order."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self._sequence = itertools.count()
        self._due: list[tuple[float, int, _ManualTimer]] = []

    def now_s(self) -> float:
        """Seconds since the clock's own zero."""
        return self._now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Cancellable:
        """See ``Timers.call_at``; a time that is past fires on the next ``advance``, even by 0."""
        timer = _ManualTimer(callback)
        heapq.heappush(self._due, (when_s, next(self._sequence), timer))
        return timer

    def advance(self, by_s: float) -> None:
        """Move time forward, firing timers at their own moments, also ones set meanwhile."""
        if by_s < 0:
            raise ValueError("time does not go back")
        end_s = self._now_s + by_s
        while self._due and self._due[0][0] <= end_s:
            when_s, _, timer = heapq.heappop(self._due)
            self._now_s = max(self._now_s, when_s)
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
        self._now_s = end_s

    def next_due_s(self) -> float | None:
        """When the next live timer falls due, or None: lets a test or a simulation jump there."""
        while self._due and self._due[0][2].callback is None:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None
