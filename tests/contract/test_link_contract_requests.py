"""What the Link port promises, held in process, on NATS and on NATS over WebSocket: requests."""

import asyncio

import pytest

from specedge.errors import LinkTimeout, NoResponders
from specedge.link.base import Message
from specedge.service.runtime import Tasks
from tests.contract.link_networks import (
    PATIENCE_S,
    Network,
    Received,
    answering,
    cancel_in_its_last_turns,
)


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


async def test_a_cancelled_request_is_cancelled_even_as_its_reply_arrives(
    network: Network, subject: str, tasks: Tasks
) -> None:
    asker, answerer = await network.link("asker"), await network.link("answerer")
    await answering(answerer, subject, tasks)

    def ask() -> "asyncio.Task[bytes]":
        return tasks.start(asker.request(subject, b"x", timeout_s=PATIENCE_S), name="asking")

    await cancel_in_its_last_turns(ask)


async def test_a_cancelled_flush_is_cancelled_even_as_its_answer_arrives(
    network: Network, tasks: Tasks
) -> None:
    link = await network.link("one")

    await cancel_in_its_last_turns(lambda: tasks.start(link.flush(), name="flushing"))
