"""The trace that requests leave at an operator: every answer counted, refusals in the log.

Knows statuses, methods and paths; no bodies, no queries and no keys. Outside of all other gates, so
that it sees what they refuse.
"""

from collections.abc import Callable, Set
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specedge_edge.openai.gates import REQUEST_ID

FIRST_REFUSAL: Final = 400
FIRST_FAULT: Final = 500  # of ours
MINUTE_S: Final = 60.0
MAX_PATH_CHARS: Final = 200
MAX_METHOD_CHARS: Final = 20

_log = structlog.get_logger("specedge.edge")


class RefusalTrace:
    """Counts answers by status, and logs those that refuse.

    count   is told the status of each answer
    now_s   monotonic seconds
    probes  paths whose answers say how the service is, and refuse nobody
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        count: Callable[[int], None],
        now_s: Callable[[], float],
        probes: Set[str] = frozenset(),
    ) -> None:
        self._app = app
        self._count = count
        self._now_s = now_s
        self._probes = probes
        self._minute_began_s = now_s()
        self._so_far: dict[int, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in self._probes:
            await self._app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message)
            await send(message)

        await self._app(scope, receive, send_on)

    def _note(self, scope: Scope, start: Message) -> None:
        status: int = start["status"]
        self._count(status)
        if status < FIRST_REFUSAL:
            return
        so_far = self._counted(status)
        if so_far.bit_count() != 1:  # the 1st, 2nd, 4th, ... of a minute are worth a line
            return
        log = _log.info if status < FIRST_FAULT else _log.warning
        log(
            "request_refused",
            method=scope["method"][:MAX_METHOD_CHARS],
            path=scope["path"][:MAX_PATH_CHARS],
            status=status,
            request_id=Headers(raw=start["headers"]).get(REQUEST_ID),
            so_far=so_far,
        )

    def _counted(self, status: int) -> int:
        """How many of this status there were within the minute, this one included."""
        now_s = self._now_s()
        if now_s - self._minute_began_s >= MINUTE_S:
            self._minute_began_s = now_s
            self._so_far.clear()
        self._so_far[status] = self._so_far.get(status, 0) + 1
        return self._so_far[status]
