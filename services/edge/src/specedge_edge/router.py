"""The edge's one subscription for answers, and the way from it to each session's inbox.

Owns the table of open sessions. Decodes; decides nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from specedge.clock import Clock
from specedge.errors import InvalidRequest
from specedge.ids import EdgeId, SessionId
from specedge.link.base import Link, LinkState, Message, Subscription
from specedge.protocol.codec import decode_down
from specedge.protocol.effects import Answered, EdgeEvent, LinkRestored, TimerDue
from specedge.protocol.subjects import down_all_sessions, parse_down_session

# A session has one round out, so more than a few undelivered answers are duplicates.
MAX_INBOX: Final = 256

_log = structlog.get_logger("specedge.edge")


@dataclass(frozen=True, slots=True)
class Arrival:
    """Something for one session: the event, and the payload bytes it came in."""

    event: EdgeEvent
    num_bytes: int = 0


class Inbox:
    """What waits for one session's driver, with the time when it came. Bounded: beyond it the
    newest is dropped and counted by the router, as if the network had lost it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: asyncio.Queue[tuple[Arrival, float]] = asyncio.Queue(MAX_INBOX)
        self._num_answers = 0  # among them

    @property
    def has_answers(self) -> bool:
        """Whether the cloud said more than was taken out."""
        return self._num_answers > 0

    def try_put(self, arrival: Arrival) -> bool:
        """False if it is full."""
        try:
            self._queue.put_nowait((arrival, self._clock.now_s()))
        except asyncio.QueueFull:
            return False
        self._num_answers += isinstance(arrival.event, Answered)
        return True

    async def get(self) -> tuple[Arrival, float]:
        """The oldest, when there is one, and when it came. Cancelling it loses nothing."""
        arrival, came_s = await self._queue.get()
        self._num_answers -= isinstance(arrival.event, Answered)
        return arrival, came_s


class SessionRouter:
    """Routes ``se.dn.<e>.v.<s>`` to the inbox of session s. Lives on the event loop.

    ``dropped`` counts what went nowhere, by reason.
    """

    def __init__(self, link: Link, edge: EdgeId) -> None:
        self._link = link
        self._edge = edge
        self._inboxes: dict[SessionId, Inbox] = {}
        self._subscription: Subscription | None = None
        self.dropped: Counter[str] = Counter()

    async def start(self) -> None:
        """Subscribe. Called once."""
        self._link.on_state(self._on_state)
        subject = down_all_sessions(self._edge)
        self._subscription = await self._link.subscribe(subject, self._on_message)

    async def stop(self) -> None:
        """Unsubscribe. Idempotent."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    @contextmanager
    def attached(self, session: SessionId, inbox: Inbox) -> Iterator[None]:
        """What comes for ``session`` goes into ``inbox`` for as long as the block lasts."""
        self._inboxes[session] = inbox
        try:
            yield
        finally:
            del self._inboxes[session]

    def _on_message(self, message: Message) -> None:
        key = parse_down_session(message.subject)
        inbox = self._inboxes.get(key.session) if key is not None else None
        if inbox is None:
            self.dropped["unknown_session"] += 1  # late answers to sessions that ended
            return
        try:
            answer = decode_down(message.payload)
        except InvalidRequest as error:
            self.dropped["undecodable"] += 1
            _log.warning("answer_undecodable", field=error.field, reason=str(error))
            return
        if not inbox.try_put(Arrival(Answered(answer), len(message.payload))):
            self.dropped["inbox_full"] += 1

    def _on_state(self, state: LinkState) -> None:
        if state is LinkState.CONNECTED:
            for inbox in self._inboxes.values():
                if not inbox.try_put(Arrival(LinkRestored())):
                    self.dropped["inbox_full"] += 1


TIMER_DUE: Final = Arrival(TimerDue())
