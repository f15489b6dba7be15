"""What the Link port promises of outages, held in process and on NATS alike."""

import asyncio

import pytest

from specedge.errors import LinkDown
from specedge.link.base import LinkState
from specedge.service.runtime import Tasks
from tests.contract.link_networks import PATIENCE_S, Network, Received, States


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
