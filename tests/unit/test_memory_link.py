"""The in-process link's bad wires, in the time of a manual clock."""

import asyncio
from collections import Counter

import pytest

from specedge.clock import ManualClock
from specedge.errors import LinkTimeout
from specedge.link.memory import MemoryHub, MemoryLink, WireProfile
from tests.contract.link_networks import Received

MANY = 400


async def sent_through(profile: WireProfile, *, seed: int = 0) -> list[int]:
    """The numbers 0 to MANY - 1, as they arrive at the far end of a wire like ``profile``."""
    clock = ManualClock()
    hub = MemoryHub(clock, seed=seed)
    sender, receiver = hub.link("sender", profile), hub.link("receiver")
    received = Received()
    await receiver.subscribe("a", received)
    for number in range(MANY):
        await sender.publish("a", b"%d" % number)
        clock.advance(0.001)
    clock.advance(1.0)
    return [int(payload) for payload in received.payloads]


async def test_nothing_arrives_before_both_latencies_have_passed() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    sender = hub.link("sender", WireProfile(latency_s=0.010))
    receiver = hub.link("receiver", WireProfile(latency_s=0.005))
    received = Received()
    await receiver.subscribe("a", received)

    await sender.publish("a", b"x")
    clock.advance(0.0149)
    assert received.messages == []
    clock.advance(0.0002)

    assert received.payloads == [b"x"]


async def test_jitter_delays_but_keeps_the_order() -> None:
    arrived = await sent_through(WireProfile(latency_s=0.01, jitter_s=0.05))

    assert arrived == list(range(MANY))


async def test_loss_takes_about_its_share_and_keeps_the_order() -> None:
    arrived = await sent_through(WireProfile(loss=0.25))

    assert arrived == sorted(set(arrived))
    assert 0.65 * MANY < len(arrived) < 0.85 * MANY


async def test_duplication_repeats_about_its_share() -> None:
    arrived = await sent_through(WireProfile(duplication=0.25))

    times = Counter(arrived)
    assert set(times) == set(range(MANY))
    assert set(times.values()) == {1, 2}
    assert 1.15 * MANY < len(arrived) < 1.35 * MANY


async def test_reordering_changes_the_order_and_loses_nothing() -> None:
    arrived = await sent_through(WireProfile(reordering=0.25))

    assert arrived != sorted(arrived)
    assert sorted(arrived) == list(range(MANY))


async def test_the_same_seed_has_the_same_faults_and_another_has_others() -> None:
    profile = WireProfile(latency_s=0.01, jitter_s=0.01, loss=0.2, duplication=0.1, reordering=0.1)

    first, again, other = [await sent_through(profile, seed=seed) for seed in (1, 1, 2)]

    assert first == again
    assert first != other


async def test_a_request_times_out_in_the_clocks_time() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    link = hub.link("one", WireProfile(loss=1.0))

    async def ask() -> None:
        with pytest.raises(LinkTimeout):
            await link.request("a", b"", timeout_s=30.0)

    async with asyncio.timeout(5.0), asyncio.TaskGroup() as group:
        asking = group.create_task(ask())
        await asyncio.sleep(0)
        clock.advance(29.9)
        await asyncio.sleep(0)
        assert not asking.done()
        clock.advance(0.2)


async def test_a_cut_loses_what_is_under_way_both_ways() -> None:
    clock = ManualClock()
    hub = MemoryHub(clock)
    far = WireProfile(latency_s=1.0)
    sender, receiver = hub.link("sender", far), hub.link("receiver", far)
    received = Received()
    await receiver.subscribe("a", received)

    async def send_and_cut(link: MemoryLink, after_s: float) -> None:
        await sender.publish("a", b"lost")
        clock.advance(after_s)
        link.cut()
        link.restore()
        clock.advance(10.0)

    await send_and_cut(sender, 0.5)
    await send_and_cut(receiver, 1.5)
    await sender.publish("a", b"kept")
    clock.advance(2.1)

    assert received.payloads == [b"kept"]
