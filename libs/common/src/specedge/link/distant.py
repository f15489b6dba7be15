"""A link over a longer way than the real one: every message is held back, each way, as if this end
were far from the broker. For load and measurements with many edges in one process, each at its own
distance; what lies beneath is a real link.

Knows nothing of subjects. In order, as the Link port says, however the delays vary.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Protocol

from specedge.clock import Timers
from specedge.errors import LinkDown
from specedge.link._wire import Wire, WireProfile
from specedge.link.base import Handler, Link, LinkCounters, Message, StateListener, Subscription

__all__ = ["DistantLink", "WireProfile"]


class TaskStarter(Protocol):
    """``specedge.service.runtime.Tasks``, as far as needed here."""

    def start(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> "asyncio.Task[None]":
        """Run ``coroutine`` in the background."""
        ...


class DistantLink:
    """``Link`` on top of ``nearby``, which it does not own: closing is the owner's.

    A publish that fails when its time to leave has come is lost, like any message. Same seed, same
    calls: same delays and losses.
    """

    def __init__(
        self,
        nearby: Link,
        profile: WireProfile,
        *,
        timers: Timers,
        tasks: TaskStarter,
        seed: str = "",
    ) -> None:
        self._nearby = nearby
        self._tasks = tasks
        self._up = Wire(profile, timers=timers, random=Random(f"{seed}/up"))
        self._down = Wire(profile, timers=timers, random=Random(f"{seed}/down"))
        # A request and its answer are as late as others, but neither is lost nor said twice: the
        # caller would wait for its whole timeout.
        sure = replace(profile, loss=0.0, duplication=0.0, reordering=0.0)
        self._asking = Wire(sure, timers=timers, random=Random(f"{seed}/ask"))
        self._on_their_way: set[asyncio.Future[None]] = set()  # requests, answers and flushes

    @property
    def is_connected(self) -> bool:
        """See ``Link.is_connected``."""
        return self._nearby.is_connected

    @property
    def counters(self) -> LinkCounters:
        """See ``Link.counters``: those of the link beneath, which others may share."""
        return self._nearby.counters

    async def publish(self, subject: str, payload: bytes) -> None:
        """See ``Link.publish``."""
        if not self._nearby.is_connected:
            raise LinkDown("not connected")
        self._up.carry(partial(self._leave, subject, payload))

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """See ``Link.request``; the way counts towards the timeout only beneath."""
        await self._travel(self._asking)
        answer = await self._nearby.request(subject, payload, timeout_s=timeout_s)
        await self._travel(self._asking)
        return answer

    async def reply(self, message: Message, payload: bytes) -> None:
        """See ``Link.reply``."""
        if message.reply is not None:
            await self.publish(message.reply, payload)

    async def subscribe(
        self, subject: str, handler: Handler, *, max_pending: int = 8192
    ) -> Subscription:
        """See ``Link.subscribe``."""

        def on_arrival(message: Message) -> None:
            self._down.carry(partial(handler, message))

        return await self._nearby.subscribe(subject, on_arrival, max_pending=max_pending)

    def on_state(self, listener: StateListener) -> None:
        """See ``Link.on_state``."""
        self._nearby.on_state(listener)

    async def flush(self) -> None:
        """See ``Link.flush``."""
        await self._travel(self._up)
        await self._nearby.flush()

    async def close(self) -> None:
        """Drop what is under way, and tell those who wait for it. The link beneath stays open.
        Idempotent."""
        for wire in (self._up, self._down, self._asking):
            wire.drop_all()
        for arrived in self._on_their_way:
            if not arrived.done():
                arrived.set_exception(LinkDown("the link is closed"))

    def _leave(self, subject: str, payload: bytes) -> None:
        self._tasks.start(self._publish(subject, payload), name="distant-publish")

    async def _publish(self, subject: str, payload: bytes) -> None:
        with suppress(LinkDown):
            await self._nearby.publish(subject, payload)

    async def _travel(self, wire: Wire) -> None:
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_their_way.add(arrived)
        try:
            wire.carry_surely(lambda: None if arrived.done() else arrived.set_result(None))
            await arrived
        finally:
            self._on_their_way.discard(arrived)
