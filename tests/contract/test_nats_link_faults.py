"""The link over NATS against brokers and networks that are not what they should be."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from specedge.errors import InvalidRequest, LinkDown
from specedge.link._connection import Loss
from specedge.link.base import LinkState
from specedge.link.broker import Broker
from specedge.link.nats import NatsLink
from specedge.service.runtime import Tasks
from tests.contract.fake_brokers import BRIEF, FirstGuest, fake_broker, options
from tests.contract.link_networks import (
    IN_TIME_S,
    PATIENCE_S,
    Received,
    States,
    cancel_in_its_last_turns,
)


def lose(link: NatsLink) -> None:
    """As if the network had broken the link's connection."""
    assert link._connection is not None
    link.on_loss(link._connection, Loss("a test"))


async def test_connecting_to_nobody_ends_in_time_and_says_why(
    tasks: Tasks, nobodys_port: int
) -> None:
    with pytest.raises(LinkDown, match=rf"{nobodys_port}: .*Connect"):
        await NatsLink.connect(
            options(f"nats://127.0.0.1:{nobodys_port}", recovery=BRIEF), tasks=tasks
        )


async def test_connecting_to_one_who_says_nothing_ends_in_time(tasks: Tasks) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with fake_broker(silence) as url:
        started = time.monotonic()
        with pytest.raises(LinkDown):
            await NatsLink.connect(options(url, recovery=BRIEF), tasks=tasks)

    assert time.monotonic() - started < IN_TIME_S


async def test_one_dead_server_among_several_does_no_harm(
    tasks: Tasks, nats_server: str, nobodys_port: int
) -> None:
    dead = f"nats://127.0.0.1:{nobodys_port}"

    for servers in ((dead, nats_server), (nats_server, dead)):
        link = await NatsLink.connect(options(*servers), tasks=tasks)
        assert link.is_connected
        await link.close()


async def test_cancelling_connect_leaves_nothing_behind(tasks: Tasks, nobodys_port: int) -> None:
    connecting = tasks.start(
        NatsLink.connect(options(f"nats://127.0.0.1:{nobodys_port}"), tasks=tasks), name="x"
    )
    await asyncio.sleep(0)
    connecting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await connecting


@pytest.mark.parametrize(
    "nonsense",
    [b"INFO {no json\r\n", b"MSG\r\n", b"-ERR 'Parser Error'\r\n", b"-ERR 'Slow Consumer'\r\n"],
    ids=["info", "protocol", "error", "slow consumer"],
)
async def test_a_broker_that_talks_nonsense_is_left_for_a_new_connection(
    tasks: Tasks, nonsense: bytes
) -> None:
    async def talk_nonsense(writer: asyncio.StreamWriter) -> None:
        writer.write(nonsense)

    guest = FirstGuest(tasks, talk_nonsense)
    async with fake_broker(guest) as url:
        link = await NatsLink.connect(options(url), tasks=tasks)
        states = States(link)
        guest.begin.set()
        await states.until(LinkState.CONNECTED)
        await link.flush()
        await link.close()

    assert states.seen == [LinkState.DISCONNECTED, LinkState.CONNECTED, LinkState.CLOSED]
    assert guest.num_visits == 2


async def test_what_makes_the_broker_close_the_connection_does_not_close_the_link(
    tasks: Tasks, nats_server: str
) -> None:
    # A reply subject that makes the control line longer than the broker allows.
    link = await NatsLink.connect(options(nats_server, inbox_prefix="x" * 1100), tasks=tasks)
    states = States(link)
    received = Received()
    await link.subscribe("test.closed_by_broker", received)

    with pytest.raises(LinkDown):
        await link.request("test.closed_by_broker", b"", timeout_s=PATIENCE_S)
    await states.until(LinkState.CONNECTED)
    await link.publish("test.closed_by_broker", b"still here")

    await received.at_least(1)
    await link.close()


async def test_a_subscription_too_many_is_counted_and_the_link_lives_on(
    tasks: Tasks, nats_server: str
) -> None:
    link = await NatsLink.connect(options(nats_server), tasks=tasks)
    received = Received()

    for number in range(70):  # the broker allows 64
        await link.subscribe(f"test.too_many.{number}", received)
    await link.publish("test.too_many.0", b"x")

    await received.at_least(1)
    assert link.counters.permission_denials == 6
    assert link.counters.reconnects == 0
    await link.close()


async def test_a_stalled_broker_is_noticed_by_its_silence(tasks: Tasks, tmp_path: Path) -> None:
    async with Broker(store_dir=tmp_path) as broker:
        link = await NatsLink.connect(
            options(broker.url, ping_interval_s=0.1, max_outstanding_pings=1), tasks=tasks
        )
        states = States(link)
        assert broker.pid is not None

        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await states.until(LinkState.DISCONNECTED)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await states.until(LinkState.CONNECTED)
        await link.close()


async def test_a_backlog_that_cannot_be_sent_refuses_more(tasks: Tasks, tmp_path: Path) -> None:
    async with Broker(store_dir=tmp_path) as broker:
        link = await NatsLink.connect(
            options(broker.url, flush_timeout_s=0.1, max_backlog_bytes=100_000), tasks=tasks
        )
        assert broker.pid is not None

        os.kill(broker.pid, signal.SIGSTOP)
        try:
            with pytest.raises(LinkDown, match="wait to be sent"):
                for _ in range(1000):
                    await link.publish("test.backlog", bytes(100_000))
        finally:
            os.kill(broker.pid, signal.SIGCONT)

        async with asyncio.timeout(PATIENCE_S):
            while True:  # as the broker takes the backlog, there is room again
                with contextlib.suppress(LinkDown):
                    await link.publish("test.backlog", b"x")
                    break
        await link.close()


async def test_a_limit_of_ones_own_below_the_brokers_is_kept(
    tasks: Tasks, nats_server: str
) -> None:
    link = await NatsLink.connect(options(nats_server, max_payload_bytes=1000), tasks=tasks)
    received = Received()
    await link.subscribe("test.own_limit", received)

    with pytest.raises(InvalidRequest, match="limit of 1000"):
        await link.publish("test.own_limit", bytes(1001))
    with pytest.raises(InvalidRequest, match="limit of 1000"):
        await link.request("test.own_limit", bytes(1001), timeout_s=PATIENCE_S)
    await link.publish("test.own_limit", bytes(1000))

    await received.at_least(1)
    assert len(received.payloads[0]) == 1000
    await link.close()


async def test_the_end_of_its_tasks_ends_the_link(nats_server: str) -> None:
    async with Tasks() as tasks:
        link = await NatsLink.connect(options(nats_server), tasks=tasks)
        states = States(link)

    assert states.seen == [LinkState.CLOSED]
    with pytest.raises(LinkDown):
        await link.publish("test.ended", b"")


async def test_a_cancelled_connect_is_cancelled_even_as_the_broker_answers(
    tasks: Tasks, nats_server: str
) -> None:
    def connect() -> "asyncio.Task[NatsLink]":
        return tasks.start(NatsLink.connect(options(nats_server), tasks=tasks), name="connecting")

    await cancel_in_its_last_turns(connect, turns=40, rounds=3)


async def test_the_end_of_its_tasks_ends_a_link_that_is_just_coming_back(nats_server: str) -> None:
    for turns in range(120):
        async with asyncio.timeout(PATIENCE_S):
            async with Tasks() as tasks:
                link = await NatsLink.connect(options(nats_server), tasks=tasks)
                lose(link)
                for _ in range(turns):
                    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"servers": ()}, "servers"),
        ({"servers": ("http://u:secret@x",)}, "servers"),
        ({"user_jwt": lambda: "jwt"}, "seed"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        options("nats://x", **changes)

    assert refusal.value.field == field
    assert "secret" not in str(refusal.value)
