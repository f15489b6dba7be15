"""A link over a longer way: late by the distance, each way, in order, whatever lies beneath."""

import asyncio
from collections.abc import Awaitable

import pytest

from specedge.clock import ManualClock
from specedge.errors import LinkDown
from specedge.link.base import Message
from specedge.link.distant import DistantLink, WireProfile
from specedge.link.memory import MemoryHub
from specedge.service.runtime import Tasks


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def advance(clock: ManualClock, seconds: float) -> None:
    clock.advance(seconds)
    await settle()
    clock.advance(0.0)  # what the hub delivers on its next turn
    await settle()


async def test_a_message_is_late_by_the_distance_each_way() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    cloud = hub.link("cloud")
    heard: list[str] = []
    async with Tasks() as tasks:
        home = DistantLink(hub.link("home"), WireProfile(0.007), timers=clock, tasks=tasks)
        await cloud.subscribe("up", lambda message: heard.append("cloud"))
        await home.subscribe("down", lambda message: heard.append("home"))

        await home.publish("up", b"draft")
        await advance(clock, 0.006)
        assert heard == []
        await advance(clock, 0.001)
        assert heard == ["cloud"]
        await cloud.publish("down", b"verdict")
        await advance(clock, 0.0)
        assert heard == ["cloud"]
        await advance(clock, 0.007)

        assert heard == ["cloud", "home"]
        await home.close()


async def test_messages_keep_their_order_however_their_delays_vary() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    cloud = hub.link("cloud")
    heard: list[bytes] = []
    async with Tasks() as tasks:
        profile = WireProfile(0.001, jitter_s=0.05)
        home = DistantLink(hub.link("home"), profile, timers=clock, tasks=tasks, seed="7")
        await cloud.subscribe("up", lambda message: heard.append(message.payload))

        for number in range(20):
            await home.publish("up", b"%d" % number)
        for _ in range(60):
            await advance(clock, 0.001)

        assert heard == [b"%d" % number for number in range(20)]
        await home.close()


async def test_a_request_takes_the_round_trip() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    cloud = hub.link("cloud")

    async with Tasks() as tasks:
        home = DistantLink(hub.link("home"), WireProfile(0.02), timers=clock, tasks=tasks)

        def answer(message: Message) -> None:
            tasks.start(cloud.reply(message, b"yes"), name="answer")

        await cloud.subscribe("ask", answer)
        asking = tasks.start(home.request("ask", b"?", timeout_s=1.0), name="ask")
        await settle()
        await advance(clock, 0.02)
        await advance(clock, 0.0)
        assert not asking.done()
        await advance(clock, 0.02)

        assert await asking == b"yes"
        await home.close()


async def test_a_distant_link_closed_delivers_nothing_more_and_leaves_the_near_one_open() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    nearby = hub.link("home")
    heard: list[bytes] = []
    async with Tasks() as tasks:
        home = DistantLink(nearby, WireProfile(0.01), timers=clock, tasks=tasks)
        await home.subscribe("down", lambda message: heard.append(message.payload))
        await hub.link("cloud").publish("down", b"late")
        await advance(clock, 0.005)
        await home.close()
        await advance(clock, 0.1)

    assert heard == []
    assert nearby.is_connected


async def test_whoever_waits_for_a_distant_link_learns_that_it_is_closed() -> None:
    clock = ManualClock()
    async with Tasks() as tasks:
        nearby = MemoryHub(clock).link("home")
        home = DistantLink(nearby, WireProfile(0.01), timers=clock, tasks=tasks)
        waiting = [
            tasks.start(told_of_the_end(home.request("ask", b"?", timeout_s=1.0)), name="ask"),
            tasks.start(told_of_the_end(home.flush()), name="flush"),
        ]
        await settle()

        await home.close()
        await settle()

        assert all(task.done() for task in waiting)


async def told_of_the_end(call: Awaitable[object]) -> None:
    with pytest.raises(LinkDown):
        await call


async def test_a_flush_that_was_given_up_harms_nothing() -> None:
    clock = ManualClock()
    async with Tasks() as tasks:
        nearby = MemoryHub(clock).link("home")
        home = DistantLink(nearby, WireProfile(0.01), timers=clock, tasks=tasks)
        given_up = tasks.start(home.flush(), name="flush")
        await settle()

        given_up.cancel()
        await settle()
        await advance(clock, 0.02)

        assert given_up.cancelled()
        await home.close()


async def test_losses_are_as_many_as_asked_for() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    heard: list[bytes] = []
    async with Tasks() as tasks:
        profile = WireProfile(0.001, loss=0.5)
        home = DistantLink(hub.link("home"), profile, timers=clock, tasks=tasks, seed="1")
        await hub.link("cloud").subscribe("up", lambda message: heard.append(message.payload))
        for number in range(200):
            await home.publish("up", b"%d" % number)
        await advance(clock, 0.01)
        await home.close()

    assert len(heard) == pytest.approx(100, abs=35)
