"""The link over NATS with keys: known, unknown, and no longer known."""

import asyncio
from pathlib import Path

import pytest

from specedge.credentials import roles
from specedge.credentials.nkey import UserKey
from specedge.errors import AuthenticationFailed
from specedge.ids import EdgeId
from specedge.link.base import LinkState
from specedge.link.broker import Broker, BrokerUser
from specedge.link.nats import NatsLink
from specedge.service.runtime import Tasks
from tests.contract.fake_brokers import fake_broker, greet, options
from tests.contract.link_networks import PATIENCE_S, Received, States


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
    tasks: Tasks, tmp_path: Path, nobodys_port: int
) -> None:
    key, other = UserKey.create(), UserKey.create()
    async with Broker(store_dir=tmp_path, users=(user(key),), port=nobodys_port) as broker:
        link = await NatsLink.connect(options(broker.url, seed=key.seed), tasks=tasks)
        states = States(link)

    async with Broker(store_dir=tmp_path, users=(user(other),), port=nobodys_port):
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


def test_options_do_not_show_their_secrets() -> None:
    seed = UserKey.create().seed

    shown = repr(options("nats://edge:hunter2@x", seed=seed))

    assert seed not in shown
    assert "hunter2" not in shown
