"""What the Link port promises, held in process, on NATS, and on NATS over WebSocket alike."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from specedge.credentials.broker_config import USERS_FILE, BrokerUser, users_config
from specedge.credentials.nkey import UserKey
from specedge.credentials.roles import Permissions
from specedge.errors import InvalidRequest, LinkDown, LinkTimeout, NoResponders
from specedge.link.base import Link, LinkState, Message
from specedge.service.runtime import Tasks
from tests.contract.link_networks import (
    PATIENCE_S,
    MemoryNetwork,
    NatsNetwork,
    Network,
    Received,
    States,
)
from tests.generated_broker import generated_broker, make_credentials

BOTH = pytest.mark.parametrize("kind", ["memory", "nats"])
_numbers = itertools.count()


@pytest.fixture
def subject() -> str:
    """A subject that no other test uses."""
    return f"test.{next(_numbers)}"


@pytest.fixture(scope="session")
def websocket_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """How to reach a broker over WebSocket as somebody who may say and hear everything."""
    root = tmp_path_factory.mktemp("credentials")
    make_credentials(root, websocket="127.0.0.1:-1")
    key = UserKey.create()
    anything = BrokerUser(key.public_key, Permissions((">",), (">",)))
    (root / "broker" / USERS_FILE).write_text(users_config((anything,)))
    with generated_broker(root) as broker:
        yield {
            "servers": (broker.websocket_url,),
            "seed": key.seed,
            "tls_ca_file": root / "authority" / "ca.pem",
        }


@pytest.fixture(params=["memory", "nats", "websocket"])
async def network(request: pytest.FixtureRequest, tasks: Tasks) -> AsyncIterator[Network]:
    """A network that stays up."""
    made: Network = MemoryNetwork()
    if request.param == "nats":
        made = NatsNetwork(request.getfixturevalue("nats_server"), tasks)
    if request.param == "websocket":
        made = NatsNetwork("", tasks, **request.getfixturevalue("websocket_settings"))
    yield made
    await made.close()


@pytest.fixture(params=["memory", "nats"])
async def frail_network(
    request: pytest.FixtureRequest, tasks: Tasks, tmp_path: Path
) -> AsyncIterator[Network]:
    """A network that a test may take down and bring back."""
    made: Network = MemoryNetwork()
    if request.param == "nats":
        made = await NatsNetwork.with_own_broker(tmp_path / "broker", tasks)
    yield made
    await made.close()


async def answering(link: Link, subject: str, tasks: Tasks) -> Received:
    """Have ``link`` answer each request with its payload, doubled."""

    def answer(message: Message) -> None:
        tasks.start(link.reply(message, message.payload * 2), name="answer")

    received = Received(answer)
    await link.subscribe(subject, received)
    return received


async def test_messages_of_one_publisher_arrive_in_order(network: Network, subject: str) -> None:
    sender, receiver = await network.link("sender"), await network.link("receiver")
    received = Received()
    await receiver.subscribe(subject, received)

    for number in range(500):
        await sender.publish(subject, b"%d" % number)

    await received.at_least(500)
    assert received.payloads == [b"%d" % number for number in range(500)]


async def test_order_holds_across_the_subjects_of_one_wildcard(
    network: Network, subject: str
) -> None:
    sender, receiver = await network.link("sender"), await network.link("receiver")
    received = Received()
    await receiver.subscribe(f"{subject}.>", received)

    for number in range(100):
        await sender.publish(f"{subject}.{number % 3}.x", b"%d" % number)

    await received.at_least(100)
    assert received.payloads == [b"%d" % number for number in range(100)]


async def test_wildcards_take_what_they_stand_for_and_nothing_else(
    network: Network, subject: str
) -> None:
    link = await network.link("one")
    star, rest, exact = Received(), Received(), Received()
    await link.subscribe(f"{subject}.*.c", star)
    await link.subscribe(f"{subject}.>", rest)
    await link.subscribe(f"{subject}.b.c", exact)

    for tail in ("", ".b", ".b.c", ".x.c", ".b.c.d"):
        await link.publish(subject + tail, tail.encode())
    await link.publish(f"{subject}.end", b"end")

    await rest.at_least(5)
    assert star.payloads == [b".b.c", b".x.c"]
    assert rest.payloads == [b".b", b".b.c", b".x.c", b".b.c.d", b"end"]
    assert exact.payloads == [b".b.c"]


async def test_the_broker_knows_a_subscription_when_subscribe_returns(
    network: Network, subject: str
) -> None:
    sender, receiver = await network.link("sender"), await network.link("receiver")

    for number in range(200):
        received = Received()
        subscription = await receiver.subscribe(f"{subject}.{number}", received)
        await sender.publish(f"{subject}.{number}", b"x")
        await received.at_least(1)
        await subscription.unsubscribe()


async def test_what_was_flushed_comes_before_what_others_say_later(
    network: Network, subject: str
) -> None:
    first, second = await network.link("first"), await network.link("second")
    receiver = await network.link("receiver")
    received = Received()
    await receiver.subscribe(subject, received)

    for number in range(100):
        await first.publish(subject, b"first %d" % number)
        await first.flush()
        await second.publish(subject, b"second %d" % number)
        await second.flush()

    await received.at_least(200)
    wanted = [b"%s %d" % (who, number) for number in range(100) for who in (b"first", b"second")]
    assert received.payloads == wanted


async def test_a_request_returns_its_own_reply(
    network: Network, subject: str, tasks: Tasks
) -> None:
    asker, answerer = await network.link("asker"), await network.link("answerer")
    await answering(answerer, subject, tasks)

    answers = await asyncio.gather(
        *(asker.request(subject, b"%d" % n, timeout_s=PATIENCE_S) for n in range(50))
    )

    assert answers == [b"%d%d" % (n, n) for n in range(50)]


async def test_a_request_that_nobody_listens_to_fails_at_once(
    network: Network, subject: str
) -> None:
    link = await network.link("one")

    with pytest.raises(NoResponders):
        await link.request(subject, b"", timeout_s=PATIENCE_S)


async def test_a_request_that_nobody_answers_times_out(network: Network, subject: str) -> None:
    link = await network.link("one")
    await link.subscribe(subject, Received())

    with pytest.raises(LinkTimeout):
        await link.request(subject, b"", timeout_s=0.05)


async def test_cancelling_a_request_abandons_its_reply_and_nothing_else(
    network: Network, subject: str, tasks: Tasks
) -> None:
    asker, answerer = await network.link("asker"), await network.link("answerer")
    received = await answering(answerer, subject, tasks)

    for _ in range(20):
        given_up = tasks.start(asker.request(subject, b"x", timeout_s=5.0), name="given up")
        await asyncio.sleep(0)
        given_up.cancel()

    assert await asker.request(subject, b"y", timeout_s=PATIENCE_S) == b"yy"
    assert received.payloads[-1] == b"y"
    assert asker.counters.reconnects == 0


async def test_a_reply_to_a_message_that_wants_none_is_nothing(
    network: Network, subject: str
) -> None:
    link = await network.link("one")

    await link.reply(Message(subject, b""), b"answer")

    assert link.counters.messages_out == 0


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError], ids=lambda e: e.__name__)
async def test_a_subscription_outlives_what_its_handler_raises(
    network: Network, subject: str, error: type[BaseException]
) -> None:
    def fail(message: Message) -> None:
        if message.payload == b"bad":
            raise error

    link = await network.link("one")
    received = Received(fail)
    await link.subscribe(subject, received)

    for payload in (b"good", b"bad", b"bad", b"good again"):
        await link.publish(subject, payload)

    await received.at_least(4)
    assert received.payloads == [b"good", b"bad", b"bad", b"good again"]
    assert link.counters.handler_errors == 2


async def test_nothing_is_delivered_after_unsubscribing(network: Network, subject: str) -> None:
    link = await network.link("one")
    ended, goes_on = Received(), Received()
    subscription = await link.subscribe(subject, ended)
    await link.subscribe(subject, goes_on)

    await link.publish(subject, b"before")
    await ended.at_least(1)
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    await link.publish(subject, b"after")

    await goes_on.at_least(2)
    assert ended.payloads == [b"before"]


async def test_a_full_subscription_drops_the_newest_and_counts_them(
    network: Network, subject: str
) -> None:
    sender, receiver = await network.link("sender"), await network.link("receiver")
    received, other = Received(), Received()
    await receiver.subscribe(subject, received, max_pending=4)
    await receiver.subscribe(f"{subject}.end", other)

    for number in range(60):  # fewer than the sender yields after: they come in one piece
        await sender.publish(subject, b"%d" % number)
    await sender.publish(f"{subject}.end", b"")
    await other.at_least(1)

    numbers = [int(payload) for payload in received.payloads]
    assert numbers[:4] == [0, 1, 2, 3]
    assert numbers == sorted(set(numbers))
    assert receiver.counters.dropped_in > 0
    assert len(numbers) + receiver.counters.dropped_in == 60


async def test_a_payload_over_the_limit_is_refused_and_costs_nothing(
    network: Network, subject: str
) -> None:
    link = await network.link("one")
    received = Received()
    await link.subscribe(subject, received)

    with pytest.raises(InvalidRequest) as refusal:
        await link.publish(subject, bytes(131_073))
    await link.publish(subject, bytes(131_072))

    assert refusal.value.field == "payload"
    await received.at_least(1)
    assert [len(payload) for payload in received.payloads] == [131_072]
    assert link.counters.reconnects == 0


@pytest.mark.parametrize(
    "bad", ["", ".", "a..b", "a b", "a.*", "a.>", "a\r\nPUB b 0\r\n", "a" * 257], ids=repr
)
async def test_what_is_no_subject_is_refused(network: Network, bad: str) -> None:
    link = await network.link("one")

    with pytest.raises(InvalidRequest) as refusal:
        await link.publish(bad, b"")

    assert refusal.value.field == "subject"


@pytest.mark.parametrize("bad", ["", "a..b", "a b", "a.>.b", "a.x*", "a.b>"])
async def test_what_is_no_pattern_is_refused(network: Network, bad: str) -> None:
    link = await network.link("one")

    with pytest.raises(InvalidRequest) as refusal:
        await link.subscribe(bad, Received())

    assert refusal.value.field == "subject"


async def test_counters_count_messages_and_payload_bytes(
    network: Network, subject: str, tasks: Tasks
) -> None:
    asker, answerer = await network.link("asker"), await network.link("answerer")
    await answering(answerer, subject, tasks)

    await asker.request(subject, b"123", timeout_s=PATIENCE_S)

    assert (asker.counters.messages_out, asker.counters.bytes_out) == (1, 3)
    assert (asker.counters.messages_in, asker.counters.bytes_in) == (1, 6)
    assert (answerer.counters.messages_in, answerer.counters.bytes_in) == (1, 3)
    assert (answerer.counters.messages_out, answerer.counters.bytes_out) == (1, 6)


async def test_cancelling_a_flush_harms_nothing(
    network: Network, subject: str, tasks: Tasks
) -> None:
    asker, answerer = await network.link("asker"), await network.link("answerer")
    await answering(answerer, subject, tasks)

    for _ in range(20):
        given_up = tasks.start(asker.flush(), name="given up")
        await asyncio.sleep(0)
        given_up.cancel()
    await asker.flush()

    assert await asker.request(subject, b"x", timeout_s=PATIENCE_S) == b"xx"
    assert asker.counters.reconnects == 0


async def test_a_link_tells_when_it_goes_down_and_when_it_is_back(frail_network: Network) -> None:
    link = await frail_network.link("one")
    states = States(link)

    await frail_network.go_down()
    assert not link.is_connected
    await frail_network.come_back()
    await states.until(LinkState.CONNECTED)

    assert link.is_connected
    assert states.seen == [LinkState.DISCONNECTED, LinkState.CONNECTED]
    assert link.counters.reconnects == 1


async def test_a_listener_that_raises_does_not_keep_others_from_hearing(
    frail_network: Network,
) -> None:
    def raises(_: LinkState) -> None:
        raise ValueError

    link = await frail_network.link("one")
    link.on_state(raises)
    states = States(link)

    await frail_network.go_down()
    await frail_network.come_back()

    await states.until(LinkState.CONNECTED)


async def test_nothing_said_while_down_arrives_later(frail_network: Network, subject: str) -> None:
    link = await frail_network.link("one")
    states = States(link)
    received = Received()
    await link.subscribe(subject, received)

    await frail_network.go_down()
    for _ in range(3):
        with pytest.raises(LinkDown):
            await link.publish(subject, b"stale")
    with pytest.raises(LinkDown):
        await link.request(subject, b"stale", timeout_s=1.0)
    with pytest.raises(LinkDown):
        await link.flush()
    await frail_network.come_back()
    await states.until(LinkState.CONNECTED)
    await link.publish(subject, b"fresh")

    await received.at_least(1)
    assert received.payloads == [b"fresh"]
    assert link.counters.refused_out == 4


async def test_subscriptions_outlive_an_outage(frail_network: Network, subject: str) -> None:
    sender, receiver = await frail_network.link("sender"), await frail_network.link("receiver")
    states = [States(sender), States(receiver)]
    kept, ended = Received(), Received()
    await receiver.subscribe(f"{subject}.*", kept)
    subscription = await receiver.subscribe(f"{subject}.*", ended)

    await frail_network.go_down()
    await subscription.unsubscribe()
    await frail_network.come_back()
    for state in states:
        await state.until(LinkState.CONNECTED)
    await sender.publish(f"{subject}.x", b"after")

    await kept.at_least(1)
    assert kept.payloads == [b"after"]
    assert ended.payloads == []


async def test_a_link_survives_outage_after_outage(frail_network: Network, subject: str) -> None:
    link = await frail_network.link("one")
    received = Received()
    await link.subscribe(subject, received)

    for number in range(3):
        states = States(link)
        await frail_network.go_down()
        await frail_network.come_back()
        await states.until(LinkState.CONNECTED)
        await link.publish(subject, b"%d" % number)
        await received.at_least(number + 1)

    assert received.payloads == [b"0", b"1", b"2"]
    assert link.counters.reconnects == 3


async def test_an_outage_fails_waiting_requests_at_once(
    frail_network: Network, subject: str, tasks: Tasks
) -> None:
    asker, answerer = await frail_network.link("asker"), await frail_network.link("answerer")
    silent = Received()
    await answerer.subscribe(subject, silent)

    async def ask() -> None:
        with pytest.raises(LinkDown):
            await asker.request(subject, b"", timeout_s=600.0)

    asking = tasks.start(ask(), name="ask")
    await silent.at_least(1)
    await frail_network.go_down()

    async with asyncio.timeout(PATIENCE_S):
        await asking


async def test_subscribing_while_down_waits_until_the_broker_knows(
    frail_network: Network, subject: str, tasks: Tasks
) -> None:
    link = await frail_network.link("one")
    received, given_up = Received(), Received()

    await frail_network.go_down()
    subscribing = tasks.start(link.subscribe(subject, received), name="subscribe")
    cancelled = tasks.start(link.subscribe(subject, given_up), name="given up")
    await asyncio.sleep(0)
    cancelled.cancel()
    assert not subscribing.done()
    await frail_network.come_back()
    async with asyncio.timeout(PATIENCE_S):
        await subscribing
    await link.publish(subject, b"x")

    await received.at_least(1)
    assert given_up.payloads == []


async def test_a_closed_link_refuses_everything(network: Network, subject: str) -> None:
    link = await network.link("one")
    states = States(link)

    await link.close()
    await link.close()

    assert not link.is_connected
    assert states.seen == [LinkState.CLOSED]
    with pytest.raises(LinkDown):
        await link.publish(subject, b"")
    with pytest.raises(LinkDown):
        await link.request(subject, b"", timeout_s=1.0)
    with pytest.raises(LinkDown):
        await link.subscribe(subject, Received())
    with pytest.raises(LinkDown):
        await link.flush()


async def test_what_was_published_before_closing_still_goes_out(
    network: Network, subject: str
) -> None:
    sender, receiver = await network.link("sender"), await network.link("receiver")
    received = Received()
    await receiver.subscribe(subject, received)

    for number in range(50):
        await sender.publish(subject, b"%d" % number)
    await sender.close()

    await received.at_least(50)


async def test_closing_while_down_raises_nothing_and_does_not_wait(
    frail_network: Network, subject: str
) -> None:
    link = await frail_network.link("one")
    states = States(link)
    await link.subscribe(subject, Received())
    await link.publish(subject, bytes(1000))

    await frail_network.go_down()
    async with asyncio.timeout(PATIENCE_S):
        await link.close()

    assert states.seen == [LinkState.DISCONNECTED, LinkState.CLOSED]
