"""The link over NATS against brokers, networks and credentials that are not what they should be."""

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from specedge.credentials import roles
from specedge.credentials.nkey import UserKey
from specedge.errors import AuthenticationFailed, InvalidRequest, LinkDown
from specedge.ids import EdgeId
from specedge.link._connection import RecoveryPolicy
from specedge.link.base import LinkState
from specedge.link.broker import Broker, BrokerFailed, BrokerUser
from specedge.link.nats import NatsLink, NatsOptions
from specedge.service.runtime import Tasks
from tests.contract.certificates import make_authority
from tests.contract.link_networks import PATIENCE_S, Received, States

QUICK = RecoveryPolicy(open_timeout_s=1.0, first_wait_s=0.02, longest_wait_s=0.05)

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def options(*urls: str, **changes: object) -> NatsOptions:
    base = NatsOptions(servers=urls, name="test", recovery=QUICK)
    return replace(base, **changes)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def fake_broker(speak: Speak) -> AsyncIterator[str]:
    """A listener that says what ``speak`` says. Ends all conversations when left."""
    writers: list[asyncio.StreamWriter] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await speak(reader, writer)

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


INFO = b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"headers":true}\r\n'


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The opening of the protocol, up to the client's first PING answered."""
    writer.write(INFO)
    await reader.readuntil(b"PING\r\n")
    writer.write(b"PONG\r\n")


async def answer_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")


async def test_connecting_to_nobody_ends_in_time_and_says_why(
    tasks: Tasks, unused_tcp_port: int
) -> None:
    with pytest.raises(LinkDown, match=rf"{unused_tcp_port}: .*Connect"):
        await NatsLink.connect(options(f"nats://127.0.0.1:{unused_tcp_port}"), tasks=tasks)


async def test_connecting_to_one_who_says_nothing_ends_in_time(tasks: Tasks) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with fake_broker(silence) as url:
        started = time.monotonic()
        with pytest.raises(LinkDown):
            await NatsLink.connect(options(url), tasks=tasks)

    assert time.monotonic() - started < 4.0


async def test_one_dead_server_among_several_does_no_harm(
    tasks: Tasks, nats_server: str, unused_tcp_port: int
) -> None:
    dead = f"nats://127.0.0.1:{unused_tcp_port}"

    for servers in ((dead, nats_server), (nats_server, dead)):
        link = await NatsLink.connect(options(*servers), tasks=tasks)
        assert link.is_connected
        await link.close()


async def test_cancelling_connect_leaves_nothing_behind(tasks: Tasks, unused_tcp_port: int) -> None:
    connecting = tasks.start(
        NatsLink.connect(options(f"nats://127.0.0.1:{unused_tcp_port}"), tasks=tasks), name="x"
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
    visits = 0
    talk = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        await greet(reader, writer)
        if visits == 1:
            tasks.start(talk_nonsense(writer), name="nonsense")
        await answer_pings(reader, writer)

    async def talk_nonsense(writer: asyncio.StreamWriter) -> None:
        await talk.wait()
        writer.write(nonsense)

    async with fake_broker(speak) as url:
        link = await NatsLink.connect(options(url), tasks=tasks)
        states = States(link)
        talk.set()
        await states.until(LinkState.CONNECTED)
        await link.flush()
        await link.close()

    assert states.seen == [LinkState.DISCONNECTED, LinkState.CONNECTED, LinkState.CLOSED]
    assert visits == 2


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


# TLS


async def test_tls_is_spoken_with_a_broker_that_the_authority_vouches_for(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours = make_authority(tmp_path, "ours")
    async with Broker(store_dir=tmp_path / "broker", tls=ours.tls) as broker:
        link = await NatsLink.connect(options(broker.url, tls_ca_file=ours.ca_file), tasks=tasks)
        received = Received()
        await link.subscribe("test.tls", received)

        for _ in range(20):  # more than the reader's buffer holds
            await link.publish("test.tls", bytes(100_000))

        await received.at_least(20)
        await link.close()
    assert broker.url.startswith("tls://")


async def test_a_broker_that_another_authority_vouches_for_is_refused_in_time(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours, theirs = make_authority(tmp_path, "ours"), make_authority(tmp_path, "theirs")
    async with Broker(store_dir=tmp_path / "broker", tls=theirs.tls) as broker:
        started = time.monotonic()
        with pytest.raises(LinkDown, match="certificate verify failed"):
            await NatsLink.connect(options(broker.url, tls_ca_file=ours.ca_file), tasks=tasks)

    assert time.monotonic() - started < 4.0


async def test_no_credentials_go_to_a_broker_that_offers_no_tls_where_it_is_wanted(
    tasks: Tasks,
) -> None:
    heard: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO.replace(b"}", b',"nonce":"abc","auth_required":true}'))
        heard.append(await reader.read())

    async with fake_broker(speak) as url:
        secret = UserKey.create().seed
        with pytest.raises(LinkDown, match="secure connection"):
            await NatsLink.connect(options(url.replace("nats:", "tls:"), seed=secret), tasks=tasks)

    assert set(heard) == {b""}


async def test_losing_the_network_under_tls_costs_no_half_minute(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours = make_authority(tmp_path, "ours")
    async with Broker(store_dir=tmp_path / "broker", tls=ours.tls) as broker:
        link = await NatsLink.connect(
            options(
                broker.url,
                tls_ca_file=ours.ca_file,
                ping_interval_s=0.1,
                max_outstanding_pings=1,
                connect_timeout_s=0.5,
            ),
            tasks=tasks,
        )
        states = States(link)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await states.until(LinkState.DISCONNECTED)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        started = time.monotonic()
        await states.until(LinkState.CONNECTED)

        assert time.monotonic() - started < 5.0
        await link.close()


async def test_closing_under_tls_towards_a_dead_network_is_bounded(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours = make_authority(tmp_path, "ours")
    async with Broker(store_dir=tmp_path / "broker", tls=ours.tls) as broker:
        link = await NatsLink.connect(options(broker.url, tls_ca_file=ours.ca_file), tasks=tasks)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            await link.close()
            assert time.monotonic() - started < 3.0
        finally:
            os.kill(broker.pid, signal.SIGCONT)


# Credentials


def user(key: UserKey) -> BrokerUser:
    return BrokerUser(key.public_key, roles.edge(EdgeId(key.public_key)))


async def test_a_known_key_connects_and_may_do_what_its_role_may(
    tasks: Tasks, tmp_path: Path
) -> None:
    key, other = UserKey.create(), UserKey.create()
    mine, theirs = f"se.dn.{key.public_key}.v.x", f"se.dn.{other.public_key}.v.x"
    async with Broker(store_dir=tmp_path, users=(user(key), user(other))) as broker:
        link = await NatsLink.connect(options(broker.url, seed=key.seed), tasks=tasks)
        received = Received()

        await link.subscribe(mine, received)
        assert link.counters.permission_denials == 0
        await link.subscribe(theirs, received)
        assert link.counters.permission_denials == 1
        for _ in range(10):
            await link.publish(mine, b"forged")
        await link.flush()

        assert link.counters.permission_denials == 11
        assert link.counters.reconnects == 0
        assert received.messages == []
        await link.close()


async def test_replies_come_below_the_askers_own_subjects(tasks: Tasks, tmp_path: Path) -> None:
    edge, service = UserKey.create(), UserKey.create()
    users = (
        user(edge),
        BrokerUser(service.public_key, roles.Permissions(("se.dn.>",), ("se.up.>",))),
    )
    inbox = f"se.dn.{edge.public_key}.inbox"
    async with Broker(store_dir=tmp_path, users=users) as broker:
        asker = await NatsLink.connect(
            options(broker.url, seed=edge.seed, inbox_prefix=inbox), tasks=tasks
        )
        answerer = await NatsLink.connect(options(broker.url, seed=service.seed), tasks=tasks)
        await answerer.subscribe(
            "se.up.>", lambda message: tasks.start(answerer.reply(message, b"yes"), name="answer")
        )

        answer = await asker.request(f"se.up.{edge.public_key}.open.x", b"", timeout_s=PATIENCE_S)

        assert answer == b"yes"
        await asker.close()
        await answerer.close()


async def test_an_unknown_key_is_refused_after_the_counted_tries(
    tasks: Tasks, tmp_path: Path
) -> None:
    known, unknown = UserKey.create(), UserKey.create()
    async with Broker(store_dir=tmp_path, users=(user(known),)) as broker:
        with pytest.raises(AuthenticationFailed):
            await NatsLink.connect(options(broker.url, seed=unknown.seed), tasks=tasks)
        with pytest.raises(AuthenticationFailed):
            await NatsLink.connect(options(broker.url), tasks=tasks)


async def test_a_key_that_is_no_longer_known_closes_the_link_for_good(
    tasks: Tasks, tmp_path: Path
) -> None:
    key, other = UserKey.create(), UserKey.create()
    async with Broker(store_dir=tmp_path, users=(user(key),)) as broker:
        link = await NatsLink.connect(options(broker.url, seed=key.seed), tasks=tasks)
        states = States(link)
        port = broker.port

    async with Broker(store_dir=tmp_path, users=(user(other),), port=port):
        await states.until(LinkState.CLOSED)
        with pytest.raises(AuthenticationFailed):
            await link.publish("se.up.x", b"")
        with pytest.raises(AuthenticationFailed):
            await link.subscribe("se.dn.x", Received())

    assert states.seen == [LinkState.DISCONNECTED, LinkState.CLOSED]


async def test_a_revoked_user_does_not_come_back(tasks: Tasks) -> None:
    visits = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        await greet(reader, writer)
        await reader.readuntil(b"PING\r\n")  # the link's own first flush
        writer.write(b"PONG\r\n")
        await reader.readuntil(b"PUB")
        writer.write(b"-ERR 'User Authentication Revoked'\r\n")
        await reader.read()

    async with fake_broker(speak) as url:
        link = await NatsLink.connect(options(url), tasks=tasks)
        states = States(link)
        await link.publish("test.revoked", b"")
        await states.until(LinkState.CLOSED)
        with pytest.raises(AuthenticationFailed):
            await link.publish("test.revoked", b"")

    assert visits == 1


# Lives


async def test_the_end_of_its_tasks_ends_the_link(nats_server: str) -> None:
    async with Tasks() as tasks:
        link = await NatsLink.connect(options(nats_server), tasks=tasks)
        states = States(link)

    assert states.seen == [LinkState.CLOSED]
    with pytest.raises(LinkDown):
        await link.publish("test.ended", b"")


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


def test_options_do_not_show_their_secrets() -> None:
    seed = UserKey.create().seed

    assert seed not in repr(options("nats://x", seed=seed))


# The broker itself


async def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with Broker(store_dir=tmp_path / "first") as first:
        second = Broker(store_dir=tmp_path / "second", port=first.port)
        with pytest.raises(BrokerFailed, match="address already in use"):
            await second.start()

    assert second.pid is None


async def test_a_stopped_broker_has_ended_and_starts_again_on_its_port(tmp_path: Path) -> None:
    broker = Broker(store_dir=tmp_path)
    await broker.start()
    port, pid = broker.port, broker.pid
    assert pid is not None

    await broker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await broker.start()

    assert (broker.port, broker.pid is None) == (port, False)
    await broker.kill()
    assert broker.pid is None


async def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from specedge.link.broker import Broker
async def main():
    async with Broker(store_dir=pathlib.Path({str(tmp_path)!r})) as broker:
        print(broker.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    pid = int(await starter.stdout.readline())
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)

    try:
        starter.kill()
        await starter.wait()
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_a_client_that_stops_reading_slows_nobody_else(
    tasks: Tasks, nats_server: str
) -> None:
    sender = await NatsLink.connect(options(nats_server), tasks=tasks)
    good = await NatsLink.connect(options(nats_server), tasks=tasks)
    received = Received()
    await good.subscribe("test.stall.good", received)

    async def median_round_s() -> float:
        rounds_s, before = [], len(received.messages)
        for number in range(80):
            started = time.perf_counter()
            for _ in range(4):  # in all far more than the broker keeps for one client
                await sender.publish("test.stall.bad", bytes(100_000))
            await sender.publish("test.stall.good", b"")
            await received.at_least(before + number + 1)
            rounds_s.append(time.perf_counter() - started)
        return statistics.median(rounds_s[40:])

    alone_s = await median_round_s()
    with await subscribed_and_silent(nats_server, "test.stall.bad"):
        beside_s = await median_round_s()

    # A broker that stalled the sender for the silent one would add some milliseconds each time.
    assert beside_s < alone_s + 0.005
    await sender.close()
    await good.close()


async def subscribed_and_silent(url: str, subject: str) -> socket.socket:
    """A client that subscribes and then reads nothing more."""
    loop = asyncio.get_running_loop()
    client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    client.setblocking(False)
    await loop.sock_sendall(client, b"CONNECT {}\r\nSUB " + subject.encode() + b" 1\r\nPING\r\n")
    greeting = b""
    while not greeting.endswith(b"PONG\r\n"):
        greeting += await loop.sock_recv(client, 4096)
    return client
