"""A broker inside the process, with wires as bad as you ask for. For tests and for emulation.

Behaves like the link over NATS wherever the Link port says how: one contract suite runs on both.
Permissions are not emulated. Time comes from ``Timers``: with a ``ManualClock`` nothing moves until
the test advances it; with ``LoopClock`` it runs in real time.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from specedge.clock import Timers
from specedge.errors import InvalidRequest, LinkDown, LinkTimeout, NoResponders, SpecEdgeError
from specedge.link._delivery import deliver, note_drop, tell
from specedge.link._payload import check_payload
from specedge.link._subject_rules import check_pattern, check_subject, matches
from specedge.link._wire import PERFECT, Wire, WireProfile
from specedge.link.base import (
    Handler,
    LinkCounters,
    LinkState,
    Message,
    StateListener,
    Subscription,
)

__all__ = ["MemoryHub", "MemoryLink", "WireProfile"]

MAX_PAYLOAD_BYTES: Final = 131_072
PUBLISHES_PER_TURN: Final = 64  # as the link over NATS does


class MemoryHub:
    """The broker. Same seed, same names and same calls at the same times: same losses."""

    def __init__(
        self, timers: Timers, *, seed: int = 0, max_payload_bytes: int = MAX_PAYLOAD_BYTES
    ) -> None:
        self.max_payload_bytes = max_payload_bytes
        self._timers = timers
        self._seed = seed
        self._numbers = itertools.count()
        self._links: list[MemoryLink] = []

    def link(
        self, name: str, profile: WireProfile = PERFECT, *, inbox_prefix: str = ""
    ) -> "MemoryLink":
        """A new, connected link. ``profile`` holds for what it sends and for what it receives.
        ``inbox_prefix`` as in ``NatsOptions``."""
        number = next(self._numbers)
        up, down = (
            Wire(profile, timers=self._timers, random=Random(f"{self._seed}/{number}/{name}/{way}"))
            for way in ("up", "down")
        )
        inbox = f"{inbox_prefix or '_INBOX'}.{name}-{number}"
        link = MemoryLink(self, inbox, up=up, down=down, timers=self._timers)
        self._links.append(link)
        return link

    def cut(self) -> None:
        """The broker dies: every link is cut."""
        for link in list(self._links):
            link.cut()

    def restore(self) -> None:
        """The broker is back."""
        for link in list(self._links):
            link.restore()

    def route(self, message: Message, sender: "MemoryLink") -> None:
        """For links: a message has arrived at the broker."""
        is_wanted = False
        for link in self._links:
            for arrive in link.takers(message.subject):
                link.down.carry(partial(arrive, message))
                is_wanted = True
        if not is_wanted and message.reply is not None:
            sender.down.carry_surely(partial(sender.on_no_responders, message))

    def forget(self, link: "MemoryLink") -> None:
        """For links: it has closed."""
        if link in self._links:
            self._links.remove(link)


class _MemorySubscription:
    """A ``Subscription``. What has arrived waits for the loop's next turn, within its bound."""

    def __init__(
        self, owner: "MemoryLink", pattern: str, handler: Handler, *, max_pending: int
    ) -> None:
        self.owner = owner
        self.pattern = pattern
        self._handler = handler
        self._max_pending = max_pending
        self._pending: deque[Message] = deque()

    async def unsubscribe(self) -> None:
        """See ``Subscription.unsubscribe``. No delivery follows, not even of what is queued."""
        self._pending.clear()
        self.owner.forget(self)

    def arrive(self, message: Message) -> None:
        """A message has come over the wire."""
        if not self.owner.holds(self):
            return
        if len(self._pending) >= self._max_pending:
            note_drop(message.subject, self.owner.counters)
            return
        self._pending.append(message)
        if len(self._pending) == 1:
            self.owner.next_turn(self._deliver_all)

    def lose_pending(self) -> None:
        """The connection went, with all that was queued."""
        self._pending.clear()

    def _deliver_all(self) -> None:
        while self._pending:
            deliver(self._handler, self._pending.popleft(), self.owner.counters)


class MemoryLink:
    """A ``Link``. Made by ``MemoryHub.link``; ``cut`` and ``restore`` are for tests."""

    def __init__(self, hub: MemoryHub, inbox: str, *, up: Wire, down: Wire, timers: Timers) -> None:
        self.down = down
        self._hub = hub
        self._up = up
        self._timers = timers
        self._inbox = inbox
        self._state = LinkState.CONNECTED
        self._is_up = asyncio.Event()  # also set once closed, so that nobody waits for ever
        self._is_up.set()
        self._counters = LinkCounters()
        self._listeners: list[StateListener] = []
        self._subscriptions: list[_MemorySubscription] = []
        self._waiting: dict[str, asyncio.Future[bytes]] = {}  # by inbox, and flushes by number
        self._numbers = itertools.count()

    @property
    def is_connected(self) -> bool:
        """See ``Link.is_connected``."""
        return self._state is LinkState.CONNECTED

    @property
    def counters(self) -> LinkCounters:
        """See ``Link.counters``."""
        return self._counters

    def on_state(self, listener: StateListener) -> None:
        """See ``Link.on_state``."""
        self._listeners.append(listener)

    async def publish(self, subject: str, payload: bytes) -> None:
        """See ``Link.publish``."""
        self._send(Message(subject, payload))
        if self._counters.messages_out % PUBLISHES_PER_TURN == 0:
            await asyncio.sleep(0)

    async def reply(self, message: Message, payload: bytes) -> None:
        """See ``Link.reply``."""
        if message.reply is not None:
            await self.publish(message.reply, payload)

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """See ``Link.request``."""
        inbox = f"{self._inbox}.{next(self._numbers)}"
        self._send(Message(subject, payload, inbox))
        late = LinkTimeout(f"no answer on {subject} within {timeout_s:g} s")
        at_s = self._timers.now_s() + timeout_s
        timer = self._timers.call_at(at_s, partial(self._fail, inbox, late))
        try:
            answer = await self._wait_for(inbox)
        finally:
            timer.cancel()
        self._counters.messages_in += 1
        self._counters.bytes_in += len(answer)
        return answer

    async def subscribe(
        self, subject: str, handler: Handler, *, max_pending: int = 8192
    ) -> Subscription:
        """See ``Link.subscribe``."""
        check_pattern(subject)
        if max_pending < 1:
            raise InvalidRequest("a subscription holds at least one message", field="max_pending")
        await self._is_up.wait()
        self._check_connected()
        subscription = _MemorySubscription(self, subject, handler, max_pending=max_pending)
        self._subscriptions.append(subscription)
        return subscription

    async def flush(self) -> None:
        """See ``Link.flush``."""
        self._check_connected()
        if self._up.is_empty and self._up.profile.is_instant:
            return
        number = f"flush {next(self._numbers)}"
        there_and_back = partial(self.down.carry_surely, partial(self._answer, number, b""))
        self._up.carry_surely(there_and_back)
        await self._wait_for(number)

    async def close(self) -> None:
        """See ``Link.close``."""
        if self._state is LinkState.CLOSED:
            return
        self._lose("the link is closed")  # what was published is on its way, and arrives
        self._hub.forget(self)
        self._subscriptions.clear()
        self._become(LinkState.CLOSED)
        self._is_up.set()

    # What tests do.

    def cut(self) -> None:
        """Lose the connection, and with it all that is under way either way. Idempotent."""
        if self._state is LinkState.CONNECTED:
            self._is_up.clear()
            self._up.drop_all()
            self._lose("the connection was cut")
            self._become(LinkState.DISCONNECTED)

    def restore(self) -> None:
        """Connect again. Idempotent."""
        if self._state is LinkState.DISCONNECTED:
            self._counters.reconnects += 1
            self._become(LinkState.CONNECTED)
            self._is_up.set()

    # What the hub and the subscriptions ask.

    def takers(self, subject: str) -> list[Handler]:
        """Who wants ``subject``: subscriptions, and a request that waits for this very answer."""
        if not self.is_connected:
            return []
        wanted: list[Handler] = [
            s.arrive for s in self._subscriptions if matches(s.pattern, subject)
        ]
        if subject in self._waiting:
            wanted.append(self._on_answer)
        return wanted

    def holds(self, subscription: _MemorySubscription) -> bool:
        """Whether a delivery is still wanted."""
        return subscription in self._subscriptions

    def on_no_responders(self, message: Message) -> None:
        """The broker found nobody for a request."""
        assert message.reply is not None
        self._fail(message.reply, NoResponders(f"nobody answers on {message.subject}"))

    def forget(self, subscription: _MemorySubscription) -> None:
        """It was unsubscribed."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def next_turn(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop's next turn, or at the clock's next advance."""
        self._timers.call_at(self._timers.now_s(), callback)

    # Small print.

    def _check_connected(self) -> None:
        if self._state is LinkState.CLOSED:
            raise LinkDown("the link is closed")
        if self._state is LinkState.DISCONNECTED:
            raise LinkDown("not connected")

    def _send(self, message: Message) -> None:
        check_subject(message.subject)
        try:
            self._check_connected()
        except LinkDown:
            self._counters.refused_out += 1
            raise
        check_payload(message.payload, self._hub.max_payload_bytes)
        self._counters.messages_out += 1
        self._counters.bytes_out += len(message.payload)
        self._up.carry(partial(self._hub.route, message, self))

    async def _wait_for(self, key: str) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            return await future
        finally:
            del self._waiting[key]

    def _on_answer(self, message: Message) -> None:
        self._answer(message.subject, message.payload)

    def _answer(self, key: str, payload: bytes) -> None:
        future = self._waiting.get(key)
        if future is not None and not future.done():
            future.set_result(payload)

    def _fail(self, key: str, error: SpecEdgeError) -> None:
        future = self._waiting.get(key)
        if future is not None and not future.done():
            future.set_exception(error)

    def _lose(self, reason: str) -> None:
        self.down.drop_all()
        for subscription in self._subscriptions:
            subscription.lose_pending()
        for key in list(self._waiting):
            self._fail(key, LinkDown(reason))

    def _become(self, state: LinkState) -> None:
        self._state = state
        tell(self._listeners, state)
