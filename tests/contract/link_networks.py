"""The two networks that the link contract is held on, and what a handler has received."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from specedge.link.base import Link, LinkState, Message
from specedge.link.broker import Broker
from specedge.link.memory import MemoryHub
from specedge.link.nats import NatsLink, NatsOptions
from specedge.service.runtime import LoopClock, Tasks

PATIENCE_S = 30.0  # with what comes at once, but for a busy machine
# What is bounded by a few seconds ends within this. An attempt to connect is cut off after 16 s;
# TLS left to itself waits for half a minute, or for a whole one.
IN_TIME_S = 12.0


class Received:
    """A handler that keeps what it gets and lets a test await it."""

    def __init__(self, act: Callable[[Message], None] | None = None) -> None:
        self.messages: list[Message] = []
        self._act = act
        self._more = asyncio.Event()

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self._more.set()
        if self._act is not None:
            self._act(message)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    async def at_least(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.messages) < count:
                self._more.clear()
                await self._more.wait()


async def answering(link: Link, subject: str, tasks: Tasks) -> Received:
    """Have ``link`` answer each request with its payload, doubled."""

    def answer(message: Message) -> None:
        tasks.start(link.reply(message, message.payload * 2), name="answer")

    received = Received(answer)
    await link.subscribe(subject, received)
    return received


async def cancel_in_its_last_turns(
    start: Callable[[], "asyncio.Task[object]"], *, turns: int = 5, rounds: int = 20
) -> None:
    """What ``start`` starts must end as cancelled if it is cancelled before it is done, in
    whichever of its last ``turns``: around the one in which its answer is there."""

    async def turns_until_done(most: int) -> tuple[int, "asyncio.Task[object]"]:
        running = start()
        taken = 0
        while taken < most and not running.done():
            await asyncio.sleep(0)
            taken += 1
        return taken, running

    for _ in range(rounds):
        usual, _done = await turns_until_done(100_000)
        for early in range(1, min(turns, usual) + 1):
            _, running = await turns_until_done(usual - early)
            is_too_late = not running.cancel()
            await asyncio.wait([running])

            assert is_too_late or running.cancelled()


class States:
    """A link's states as it tells them."""

    def __init__(self, link: Link) -> None:
        self.seen: list[LinkState] = []
        self._more = asyncio.Event()
        link.on_state(self._on_state)

    def _on_state(self, state: LinkState) -> None:
        self.seen.append(state)
        self._more.set()

    async def until(self, state: LinkState) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while state not in self.seen:
                self._more.clear()
                await self._more.wait()


class Network(Protocol):
    async def link(self, name: str) -> Link: ...

    async def go_down(self) -> None: ...

    async def come_back(self) -> None: ...

    async def close(self) -> None: ...


class MemoryNetwork:
    def __init__(self) -> None:
        self._hub = MemoryHub(LoopClock())
        self._links: list[Link] = []

    async def link(self, name: str) -> Link:
        link = self._hub.link(name)
        self._links.append(link)
        return link

    async def go_down(self) -> None:
        self._hub.cut()

    async def come_back(self) -> None:
        self._hub.restore()

    async def close(self) -> None:
        for link in self._links:
            await link.close()


class NatsNetwork:
    """Over the shared broker, which nobody may stop, or over one of its own."""

    def __init__(
        self, url: str, tasks: Tasks, broker: Broker | None = None, **settings: object
    ) -> None:
        self._settings = {"servers": (url,)} | settings
        self._tasks = tasks
        self._broker = broker
        self._links: list[Link] = []

    @classmethod
    async def with_own_broker(cls, store_dir: Path, tasks: Tasks, port: int) -> "NatsNetwork":
        broker = Broker(store_dir=store_dir, port=port)
        await broker.start()
        return cls(broker.url, tasks, broker)

    async def link(self, name: str) -> Link:
        options = NatsOptions(name=name, **self._settings)  # type: ignore[arg-type]
        link = await NatsLink.connect(options, tasks=self._tasks)
        self._links.append(link)
        return link

    async def go_down(self) -> None:
        assert self._broker is not None
        waits = [States(link) for link in self._links if link.is_connected]
        await self._broker.kill()
        for states in waits:
            await states.until(LinkState.DISCONNECTED)

    async def come_back(self) -> None:
        assert self._broker is not None
        await self._broker.start()

    async def close(self) -> None:
        for link in self._links:
            await link.close()
        if self._broker is not None:
            await self._broker.stop()
