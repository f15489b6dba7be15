"""Whether a service lives and whether it is ready: the state, and the routes that tell it.

    /live, /health   200 while the process is of use; 503 when only a restart would help
    /started         200 once loading is over, whatever came after; 503 with phase and percent till
                     then
    /ready           200 when it takes work; 503 with reasons, phase and percent before, and after
                     the drain has begun
    /metrics         Prometheus text

/live, /health and /ready carry ``notes``, if there are any: what the service does without, and why.
None of them needs a key. A service mounts ``service_routes`` next to its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from specedge.service.metrics import CONTENT_TYPE, ServiceMetrics
from specedge.service.watchdog import LoopWatchdog

DRAINING: Final = "draining"
LOOP_STUCK_S: Final = 10.0

Check = Callable[[], str | None]


@dataclass(slots=True)
class HealthState:
    """Written by the service, on the loop; read by the routes.

    phase, percent   of loading; percent is None where it is not known
    """

    phase: str = "starting"
    percent: float | None = 0.0
    _is_loaded: bool = False
    _is_draining: bool = False
    _needs: dict[str, Check] = field(default_factory=dict)
    _notes: dict[str, Check] = field(default_factory=dict)

    def loading(self, phase: str, fraction: float | None = None) -> None:
        """How far the service has come: ``fraction`` of ``phase``, 0 to 1."""
        self.phase = phase
        self.percent = None if fraction is None else round(100 * fraction, 1)

    def loaded(self) -> None:
        """Loading is over: from now on only needs and the drain keep it from being ready."""
        self._is_loaded = True
        self.phase, self.percent = "loaded", 100.0

    def need(self, name: str, check: Check) -> None:
        """Ready only while ``check()`` returns None; else what it returns is the reason."""
        self._needs[name] = check

    def note(self, name: str, check: Check) -> None:
        """Tell what ``check()`` returns, unless it is None, to whoever asks: something that the
        service can do without."""
        self._notes[name] = check

    def notes(self) -> dict[str, str]:
        """What the service does without now, and why, by name."""
        told = {name: check() for name, check in self._notes.items()}
        return {name: reason for name, reason in told.items() if reason is not None}

    def start_draining(self) -> None:
        """Not ready any more, for good."""
        self._is_draining = True

    @property
    def is_loaded(self) -> bool:
        """Whether loading is over."""
        return self._is_loaded

    @property
    def is_ready(self) -> bool:
        """Whether the service takes work."""
        return not self.reasons()

    def reasons(self) -> list[str]:
        """Why it is not ready; empty when it is."""
        reasons = []
        if self._is_draining:
            reasons.append(DRAINING)
        if not self._is_loaded:
            reasons.append(f"loading: {self.phase}")
        return reasons + [r for r in (check() for check in self._needs.values()) if r is not None]


def service_routes(
    health: HealthState, metrics: ServiceMetrics, watchdog: LoopWatchdog
) -> list[Route]:
    """The routes that every service has."""

    async def live(_: Request) -> Response:
        since_s, reason = watchdog.since_tick_s(), None
        if since_s > LOOP_STUCK_S:
            reason = f"the event loop has been stuck for {since_s:.0f} s"
        body = {
            "status": "live" if reason is None else "dead",
            "loop_lag_ms": round(1000 * watchdog.last_lag_s, 3),
            **_noted(health),
        }
        return _answer(body if reason is None else {**body, "reason": reason}, ok=reason is None)

    async def started(_: Request) -> Response:
        status = "started" if health.is_loaded else "starting"
        body = {"status": status, "phase": health.phase, "percent": health.percent}
        return _answer(body, ok=health.is_loaded)

    async def ready(_: Request) -> Response:
        reasons = health.reasons()
        status = "not ready" if reasons else "ready"
        body = {"status": status, "phase": health.phase, "percent": health.percent}
        return _answer({**body, "reasons": reasons, **_noted(health)}, ok=not reasons)

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    return [
        Route("/live", live),
        Route("/health", live),
        Route("/started", started),
        Route("/ready", ready),
        Route("/metrics", exposition),
    ]


def _noted(health: HealthState) -> dict[str, Any]:
    notes = health.notes()
    return {"notes": notes} if notes else {}


def _answer(body: dict[str, Any], *, ok: bool) -> Response:
    return JSONResponse(body, status_code=200 if ok else 503, headers={"Cache-Control": "no-store"})
