"""How an edge asks for a place: one request at a time, again while that may help. Changed by
the edge session alone."""

from specedge.errors import Busy, RetryableError, SpecEdgeError
from specedge.protocol.effects import RequestOpen
from specedge.protocol.round_timer import EdgeSessionConfig


class EdgeOpening:
    """The open request and the time it may take in all. ``payload`` is the encoded request."""

    __slots__ = ("_by_s", "_config", "_payload", "is_out")

    def __init__(self, payload: bytes, config: EdgeSessionConfig) -> None:
        self._payload = payload
        self._config = config
        self._by_s: float | None = None
        self.is_out = False

    def ask(self, now_s: float) -> RequestOpen:
        """The request, never to be waited for past the time that opening may take."""
        if self._by_s is None:
            self._by_s = now_s + self._config.open_s
        self.is_out = True
        timeout_s = min(self._config.open_timeout_s, self._by_s - now_s)
        return RequestOpen(self._payload, max(timeout_s, 1e-3))

    def retry_at_s(self, error: SpecEdgeError, now_s: float) -> float | None:
        """When to ask again; None if that is useless, or the answer would come too late. A pool
        that is full says so once: the client is told when to come back, and not kept in line."""
        if not isinstance(error, RetryableError) or isinstance(error, Busy) or self._by_s is None:
            return None
        wait_s = self._config.open_retry_s if error.retry_ms is None else error.retry_ms / 1e3
        return now_s + wait_s if now_s + wait_s < self._by_s else None
