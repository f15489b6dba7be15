"""How a lost connection is won back, on connections that do what a test says."""

import asyncio
from collections.abc import Awaitable, Callable

from specedge.errors import LinkDown
from specedge.link._connection import ConnectionEvents, Loss, RecoveryPolicy
from specedge.link._reconnecting import ReconnectingLink
from specedge.link.base import LinkState, Message
from specedge.service.runtime import Tasks

PATIENCE_S = 30.0
QUICK = RecoveryPolicy(first_wait_s=0.001, longest_wait_s=0.001)


class ScriptedConnection:
    """A ``Connection``; its broker takes note of a subscription when it is flushed."""

    max_payload_bytes = 1000

    def __init__(self, events: ConnectionEvents) -> None:
        self.is_open = True
        self.is_closed = False
        self.asked: list[str] = []
        self.known: list[str] = []
        self._events = events

    def lose(self) -> None:
        self.is_open = False
        self._events.on_loss(self, Loss("a test"))

    async def publish(self, subject: str, payload: bytes) -> None:
        raise AssertionError("no test publishes")

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        raise AssertionError("no test asks")

    async def subscribe(
        self, subject: str, deliver: Callable[[Message], None], *, max_pending: int
    ) -> Callable[[], Awaitable[None]]:
        self.asked.append(subject)

        async def unsubscribe() -> None:
            self.asked.remove(subject)

        return unsubscribe

    async def flush(self) -> None:
        asked = list(self.asked)
        await asyncio.sleep(0)
        if not self.is_open:
            raise LinkDown("a test")
        self.known = asked

    async def close(self) -> None:
        self.is_open, self.is_closed = False, True


class Connections:
    """Opens them, while it is let."""

    def __init__(self) -> None:
        self.made: list[ScriptedConnection] = []
        self.may_open = asyncio.Event()
        self.may_open.set()

    async def __call__(self, events: ConnectionEvents) -> ScriptedConnection:
        await self.may_open.wait()
        self.made.append(ScriptedConnection(events))
        return self.made[-1]


async def started(connections: Connections, tasks: Tasks) -> ReconnectingLink:
    link = ReconnectingLink(connections, QUICK)
    await link.start(tasks)
    return link


def ignore(_: Message) -> None:
    """A handler of what nobody says."""


async def test_a_link_is_back_only_when_the_broker_knows_its_subscriptions(tasks: Tasks) -> None:
    connections = Connections()
    link = await started(connections, tasks)
    await link.subscribe("test.one", ignore)
    await link.subscribe("test.two", ignore)
    back: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    def on_state(state: LinkState) -> None:
        if state is LinkState.CONNECTED:
            back.set_result(list(connections.made[-1].known))

    link.on_state(on_state)
    connections.made[0].lose()

    async with asyncio.timeout(PATIENCE_S):
        assert await back == ["test.one", "test.two"]
    await link.close()


async def test_what_is_subscribed_to_while_a_link_comes_back_is_asked_for_once(
    tasks: Tasks,
) -> None:
    connections = Connections()
    link = await started(connections, tasks)
    await link.subscribe("test.before", ignore)
    connections.may_open.clear()
    connections.made[0].lose()
    waiting = tasks.start(link.subscribe("test.meanwhile", ignore), name="subscribe")
    await asyncio.sleep(0)
    connections.may_open.set()

    async with asyncio.timeout(PATIENCE_S):
        await waiting

    assert connections.made[1].known == ["test.before", "test.meanwhile"]
    await link.close()


async def test_subscribing_while_down_outlives_a_connection_that_is_lost_at_once(
    tasks: Tasks,
) -> None:
    connections = Connections()
    link = await started(connections, tasks)
    connections.may_open.clear()
    connections.made[0].lose()
    waiting = tasks.start(link.subscribe("test.one", ignore), name="subscribe")
    await asyncio.sleep(0)

    def on_state(state: LinkState) -> None:
        if state is LinkState.CONNECTED and len(connections.made) == 2:
            connections.made[1].lose()

    link.on_state(on_state)
    connections.may_open.set()
    async with asyncio.timeout(PATIENCE_S):
        await waiting

    assert connections.made[2].known == ["test.one"]
    await link.close()


async def test_a_link_that_is_closed_as_it_is_lost_leaves_no_connection_behind(
    tasks: Tasks,
) -> None:
    connections = Connections()
    link = await started(connections, tasks)

    connections.made[0].lose()
    await link.close()

    assert [connection.is_closed for connection in connections.made] == [True]
