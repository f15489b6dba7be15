"""What the Link port promises, held in process, on NATS and on NATS over WebSocket: closing."""

import asyncio

import pytest

from specedge.errors import LinkDown
from specedge.link.base import LinkState
from tests.contract.link_networks import PATIENCE_S, Network, Received, States


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
