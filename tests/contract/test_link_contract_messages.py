"""What the Link port promises, held in process, on NATS and on NATS over WebSocket: messages."""

import asyncio

import pytest

from specedge.errors import InvalidRequest
from specedge.link.base import Message
from tests.contract.link_networks import PATIENCE_S, Network, Received

# ---------------------------------------------------------------- order and wildcards


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


# ---------------------------------------------------------------- subscriptions


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


# ---------------------------------------------------------------- what is refused


async def test_a_payload_over_the_limit_is_refused_and_costs_nothing(
    network: Network, subject: str
) -> None:
    link = await network.link("one")
    received = Received()
    await link.subscribe(subject, received)

    with pytest.raises(InvalidRequest) as refusal:
        await link.publish(subject, bytes(131_073))
    with pytest.raises(InvalidRequest):
        await link.request(subject, bytes(131_073), timeout_s=PATIENCE_S)
    with pytest.raises(InvalidRequest):
        await link.reply(Message(subject, b"", reply=subject), bytes(131_073))
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
