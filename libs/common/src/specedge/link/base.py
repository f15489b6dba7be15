"""The Link port: what services ask of a message broker. Nothing here names NATS.

Delivery is at most once, in order within one subscription. Nothing is buffered while the link is
down: the protocol's retries cover what is lost, and stale work must not arrive late.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery. ``reply`` is the subject an answer is wanted on, unchecked: see
    ``specedge.protocol.subjects.is_own_inbox`` before answering an edge."""

    subject: str
    payload: bytes
    reply: str | None = None


class LinkState(StrEnum):
    """What a listener is told when it changes."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    CLOSED = "closed"  # for good: asked for, or the credentials are refused


Handler = Callable[[Message], None]
StateListener = Callable[[LinkState], None]


@dataclass(slots=True)
class LinkCounters:
    """Since the start, payload bytes only. Written by the link, read by metrics and benchmarks."""

    messages_out: int = 0
    messages_in: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    dropped_in: int = 0  # a subscription's bound was hit; the newest message was dropped
    refused_out: int = 0  # publishes while disconnected
    handler_errors: int = 0
    reconnects: int = 0
    permission_denials: int = 0


class Subscription(Protocol):
    """A live subscription; survives reconnects."""

    async def unsubscribe(self) -> None:
        """Stop deliveries. Idempotent."""
        ...


class Link(Protocol):
    """A connection to the broker. Made connected; used by many tasks of one event loop.

    Once CLOSED, every call raises LinkDown; if the broker refused the credentials for good,
    AuthenticationFailed, which no retry mends.
    """

    @property
    def is_connected(self) -> bool:
        """Whether a publish would be sent now."""
        ...

    @property
    def counters(self) -> LinkCounters:
        """Live counters."""
        ...

    async def publish(self, subject: str, payload: bytes) -> None:
        """Send, or raise: LinkDown when not connected, InvalidRequest when the payload is over the
        broker's limit. Does not wait for delivery."""
        ...

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Send and wait for one reply. Raises LinkDown, NoResponders or LinkTimeout. Cancelling it
        abandons the reply and nothing else."""
        ...

    async def reply(self, message: Message, payload: bytes) -> None:
        """Answer ``message.reply``; without one, nothing happens. Raises as ``publish``."""
        ...

    async def subscribe(
        self, subject: str, handler: Handler, *, max_pending: int = 8192
    ) -> Subscription:
        """Deliver matching messages to ``handler``, in order, on the event loop.

        ``handler`` must not block: it decodes and puts the result somewhere. What it raises is
        counted and logged, and the subscription lives on. Beyond ``max_pending`` undelivered
        messages the newest is dropped and counted. Returns when the broker knows the subscription:
        while disconnected, that is when the connection is back. Cancelling it takes the
        subscription back. Raises InvalidRequest for what is no pattern, LinkTimeout when the
        broker does not answer.
        """
        ...

    def on_state(self, listener: StateListener) -> None:
        """Call ``listener`` at each change of state, on the event loop."""
        ...

    async def flush(self) -> None:
        """Return when the broker has processed everything published and subscribed before. Raises
        LinkDown or LinkTimeout. Cancelling it gives up waiting and nothing else."""
        ...

    async def close(self) -> None:
        """Flush what can be flushed and disconnect. Idempotent, never raises, bounded in time."""
        ...
