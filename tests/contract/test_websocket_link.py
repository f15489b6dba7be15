"""The link over WebSocket: the same as over TCP, on brokers and networks that fail."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from specedge.errors import AuthenticationFailed, InvalidRequest, LinkDown
from specedge.link.base import LinkState, Message
from specedge.link.nats import NatsLink, NatsOptions
from specedge.service.runtime import Tasks
from tests.contract.fake_brokers import BRIEF, QUICK
from tests.contract.link_networks import IN_TIME_S, PATIENCE_S, Received, States
from tests.generated_broker import GeneratedBroker, generated_broker, make_credentials

WEBSOCKET = {"websocket": "127.0.0.1:-1"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedBroker]:
    """One that no test stops."""
    root = tmp_path_factory.mktemp("credentials")
    make_credentials(root, **WEBSOCKET)
    with generated_broker(root) as running:
        yield running


def over_websocket(broker: GeneratedBroker, name: str, **changes: object) -> NatsOptions:
    settings = {"servers": (broker.websocket_url,), "recovery": QUICK} | changes
    return broker.options(name, **settings)


async def test_an_edge_speaks_hears_and_is_answered(broker: GeneratedBroker, tasks: Tasks) -> None:
    edge = await NatsLink.connect(over_websocket(broker, "alice"), tasks=tasks)
    scheduler = await NatsLink.connect(broker.options("scheduler-1"), tasks=tasks)
    key, heard = broker.member("alice").public_key, Received()

    def on_up(message: Message) -> None:
        tasks.start(scheduler.reply(message, b"answer to " + message.payload), name="reply")

    await scheduler.subscribe("se.up.>", on_up)
    await edge.subscribe(f"se.dn.{key}.v.>", heard)
    payloads = [b"%d " % number * 2000 for number in range(200)]

    answer = await edge.request(f"se.up.{key}.renew", b"question", timeout_s=PATIENCE_S)
    for payload in payloads:
        await scheduler.publish(f"se.dn.{key}.v.x", payload)
    await heard.at_least(len(payloads))

    assert answer == b"answer to question"
    assert heard.payloads == payloads
    await edge.close()
    await scheduler.close()


async def test_services_do_not_come_in_by_the_edges_door(
    broker: GeneratedBroker, tasks: Tasks
) -> None:
    with pytest.raises((AuthenticationFailed, LinkDown)):
        await NatsLink.connect(over_websocket(broker, "scheduler-1", recovery=BRIEF), tasks=tasks)


async def test_a_broker_of_another_authority_ends_the_attempt_in_time(
    broker: GeneratedBroker, tasks: Tasks, tmp_path: Path
) -> None:
    make_credentials(tmp_path)
    theirs = tmp_path / "authority" / "ca.pem"
    options = over_websocket(broker, "alice", tls_ca_file=theirs, recovery=BRIEF)

    started = time.monotonic()
    with pytest.raises(LinkDown, match="certificate"):
        await NatsLink.connect(options, tasks=tasks)

    assert time.monotonic() - started < IN_TIME_S


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
async def test_a_broker_that_is_gone_is_noticed_and_the_link_closes_in_time(
    number: signal.Signals, tmp_path: Path, tasks: Tasks
) -> None:
    make_credentials(tmp_path, **WEBSOCKET)
    with generated_broker(tmp_path) as broker:
        options = over_websocket(broker, "alice", ping_interval_s=0.1, connect_timeout_s=0.5)
        link = await NatsLink.connect(options, tasks=tasks)
        states = States(link)

        broker.send_signal(number)
        await states.until(LinkState.DISCONNECTED)
        started = time.monotonic()
        await link.close()

        assert time.monotonic() - started < IN_TIME_S
        broker.send_signal(signal.SIGCONT)


async def test_a_silent_broker_that_speaks_again_is_won_back(tmp_path: Path, tasks: Tasks) -> None:
    make_credentials(tmp_path, **WEBSOCKET)
    with generated_broker(tmp_path) as broker:
        options = over_websocket(broker, "alice", ping_interval_s=0.1, connect_timeout_s=0.5)
        link = await NatsLink.connect(options, tasks=tasks)
        key, heard, states = broker.member("alice").public_key, Received(), States(link)
        await link.subscribe(f"se.dn.{key}.v.>", heard)
        broker.send_signal(signal.SIGSTOP)
        await states.until(LinkState.DISCONNECTED)

        broker.send_signal(signal.SIGCONT)
        await states.until(LinkState.CONNECTED)

        verifier = await NatsLink.connect(broker.options("verifier-1"), tasks=tasks)
        await verifier.publish(f"se.dn.{key}.v.x", b"still here")
        await heard.at_least(1)
        await verifier.close()
        await link.close()


def test_websocket_and_tcp_servers_do_not_mix() -> None:
    with pytest.raises(InvalidRequest, match="wss:// servers only"):
        NatsOptions(servers=("wss://a:443", "tls://b:4222"), name="x")
    with pytest.raises(InvalidRequest, match="wss://host:port"):
        NatsOptions(servers=("ws://a:80",), name="x")


async def test_without_its_library_it_says_what_to_install(
    broker: GeneratedBroker, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    with pytest.raises(InvalidRequest, match=r"pip install 'specedge\[websocket\]'"):
        await NatsLink.connect(over_websocket(broker, "alice"), tasks=tasks)
