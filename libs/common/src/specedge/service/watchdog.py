"""Watches the event loop: how late it runs what it was asked to run on time."""

from collections.abc import Callable
from typing import Final

from specedge.clock import Cancellable, Timers

PERIOD_S: Final = 0.1
STALL_S: Final = 0.2


class LoopWatchdog:
    """Asks for a call every ``period_s`` and measures how late it comes.

    last_lag_s   of the last call; 0.0 before the first
    worst_lag_s  since ``take_worst_lag_s`` was last called
    """

    def __init__(self, timers: Timers, *, period_s: float = PERIOD_S) -> None:
        self.last_lag_s = 0.0
        self.worst_lag_s = 0.0
        self._timers = timers
        self._period_s = period_s
        self._due_s = timers.now_s()
        self._next: Cancellable | None = None
        self._on_stall: list[tuple[float, Callable[[float], None]]] = []

    def on_stall(self, callback: Callable[[float], None], *, above_s: float = STALL_S) -> None:
        """Call ``callback(lag_s)`` after each stall longer than ``above_s``: what looks late to
        this process is then its own lateness."""
        self._on_stall.append((above_s, callback))

    def start(self) -> None:
        """Begin. Idempotent."""
        if self._next is None:
            self._ask()

    def stop(self) -> None:
        """End. Idempotent."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def since_tick_s(self) -> float:
        """Seconds since the loop last answered: above the period plus the lag, it is stuck."""
        return max(0.0, self._timers.now_s() - (self._due_s - self._period_s))

    def take_worst_lag_s(self) -> float:
        """The worst lag since the last call of this method."""
        worst_s, self.worst_lag_s = self.worst_lag_s, 0.0
        return worst_s

    def _ask(self) -> None:
        self._due_s = self._timers.now_s() + self._period_s
        self._next = self._timers.call_at(self._due_s, self._tick)

    def _tick(self) -> None:
        lag_s = max(0.0, self._timers.now_s() - self._due_s)
        self.last_lag_s, self.worst_lag_s = lag_s, max(self.worst_lag_s, lag_s)
        self._ask()
        for above_s, callback in self._on_stall:
            if lag_s > above_s:
                callback(lag_s)
