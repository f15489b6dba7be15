"""What the reconnecting link is built on: one connection, from its opening to its loss."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from specedge.link.base import Message

T = TypeVar("T")
Unsubscribe = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a connection ended. ``is_final``: the broker has thrown this identity out."""

    reason: str
    is_final: bool = False


class Connection(Protocol):
    """Open from its making until ``on_loss`` was called or ``close`` was. Never reopened."""

    @property
    def is_open(self) -> bool:
        """Whether a publish would go out."""
        ...

    @property
    def max_payload_bytes(self) -> int:
        """The broker's limit."""
        ...

    async def publish(self, subject: str, payload: bytes) -> None:
        """Raises LinkDown."""
        ...

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Raises LinkDown, NoResponders or LinkTimeout."""
        ...

    async def subscribe(
        self, subject: str, deliver: Callable[[Message], None], *, max_pending: int
    ) -> Unsubscribe:
        """Ask the broker; ``flush`` tells when it knows. Raises LinkDown."""
        ...

    async def flush(self) -> None:
        """Return when the broker has processed all that was asked before. Raises LinkDown, or
        LinkTimeout. May be cancelled."""
        ...

    async def close(self) -> None:
        """Idempotent, never raises, bounded in time; calls no listener."""
        ...


class ConnectionEvents(Protocol):
    """Told by a connection, on the loop."""

    def on_loss(self, connection: Connection, loss: Loss) -> None:
        """Once at most, and not after ``close``."""
        ...

    def on_drop(self, subject: str) -> None:
        """A subscription was full."""
        ...

    def on_denial(self, reason: str) -> None:
        """The broker refused a publish or a subscription; the connection lives on."""
        ...


class OpenConnection(Protocol):
    """Opens one connection, trying each server once or twice."""

    async def __call__(self, events: ConnectionEvents) -> Connection:
        """Raises LinkDown, or AuthenticationFailed when the broker refused the credentials."""
        ...


class TaskStarter(Protocol):
    """``specedge.service.runtime.Tasks``, as the link sees it."""

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run ``coroutine`` in the background."""
        ...


@dataclass(frozen=True, slots=True)
class RecoveryPolicy:
    """How a lost connection is won back.

    open_timeout_s   for the first connection, all attempts together
    first_wait_s     before the second attempt; the first is made at once. Doubles each time …
    longest_wait_s   … up to this; every wait is shortened at random by up to half, so that the
                     clients of a broker that restarted do not come back all at once
    calm_s           a connection that held so long has forgotten the attempts before it
    max_refusals     refusals of the credentials in a row that end the link for good
    """

    open_timeout_s: float = 15.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 5.0
    calm_s: float = 5.0
    max_refusals: int = 3


class Backoff:
    """The waits of a ``RecoveryPolicy``, one after the other."""

    def __init__(self, policy: RecoveryPolicy) -> None:
        self.attempts = 0  # since the last calm
        self._policy = policy

    def next_wait_s(self) -> float:
        """Seconds before the next attempt."""
        attempt, self.attempts = self.attempts, self.attempts + 1
        if attempt == 0:
            return 0.0
        doubled_s = self._policy.first_wait_s * 2.0 ** min(attempt - 1, 32)
        return min(self._policy.longest_wait_s, doubled_s) * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The next attempt is made at once again."""
        self.attempts = 0
