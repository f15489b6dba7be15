"""Loading, as a service tells of it: health is told, the log now and then, and a drain ends it.

Models load on a compute thread, for seconds or, where weights are fetched first, for minutes.
"""

import asyncio
from typing import Final

import structlog

from specedge.errors import SpecEdgeError
from specedge.service.health import HealthState
from specedge.service.runtime import ServiceContext

LOG_EVERY_S: Final = 5.0

_log = structlog.get_logger("specedge.service")


class LoadingStopped(SpecEdgeError):
    """The service was told to stop while it loaded. Handled by whoever started the loading: there
    is nothing to finish."""


class LoadingWatch:
    """What a loader calls with (phase, fraction done), often, from its own thread.

    Raises LoadingStopped there once the drain has begun: a child process that fetches or converts
    ends with it. Made on the loop.
    """

    def __init__(self, context: ServiceContext, health: HealthState) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._health = health
        self._logged_phase: str | None = None
        self._log_due_s = 0.0

    def __call__(self, phase: str, fraction: float) -> None:
        if self._context.drain.is_set():
            raise LoadingStopped(f"stopped while loading: {phase}")
        self._loop.call_soon_threadsafe(self._note, phase, fraction)

    def _note(self, phase: str, fraction: float) -> None:
        """On the loop."""
        self._health.loading(phase, fraction)
        now_s = self._context.clock.now_s()
        if phase == self._logged_phase and now_s < self._log_due_s:
            return
        self._logged_phase, self._log_due_s = phase, now_s + LOG_EVERY_S
        _log.info("loading", phase=phase, percent=round(100 * fraction))
