"""Between link and policy: everything that arrived together is one turn."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from specedge.clock import ManualClock, Timers
from specedge.ids import Epoch, GroupId, SchedulerId, VerifierId
from specedge.link.base import Message
from specedge.link.memory import MemoryHub, MemoryLink
from specedge.protocol import subjects
from specedge.protocol.codec import decode, encode
from specedge.protocol.messages import Batch
from specedge.service.health import HealthState
from specedge.service.runtime import ServiceContext, service_context
from specedge_scheduler import driver as driver_module
from specedge_scheduler.app import SchedulerIdentity, serve
from specedge_scheduler.driver import Driver
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import SchedulerLimits
from tests.unit.scheduler_facts import draft, key, stat

V = VerifierId("v1")
A, B, C = (key(letter) for letter in "ABC")


class Cloud:
    """A driver, and what its verifier was sent."""

    def __init__(self, context: ServiceContext, clock: Timers) -> None:
        hub = MemoryHub(context.clock)
        self._has_changed = asyncio.Event()
        self.registry = CollectorRegistry()
        self.outside: MemoryLink = hub.link("outside")
        self.batches: list[Batch] = []
        policy = SchedulerPolicy(GroupId("main"), (1, 0), SchedulerLimits(policy="greedy"))
        self.driver = Driver(
            SchedulerId("s"),
            policy,
            hub.link("scheduler"),
            clock,
            SchedulerMetrics(self.registry),
            incarnation="one",
        )

    @property
    def num_turns(self) -> float:
        return self.registry.get_sample_value("specedge_decision_seconds_count") or 0.0

    def dropped(self, reason: str) -> float:
        name = "specedge_messages_dropped_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0.0

    def lost(self, reason: str) -> float:
        name = "specedge_verifiers_lost_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0.0

    def hear(self, message: Message) -> None:
        self.batches.append(decode(Batch, message.payload))
        self._has_changed.set()

    async def has_heard(self, num_batches: int) -> None:
        """So many batches have arrived at the verifier."""
        async with asyncio.timeout(10.0):
            while len(self.batches) < num_batches:
                self._has_changed.clear()
                await self._has_changed.wait()


@asynccontextmanager
async def running(clock: Timers | None = None) -> AsyncIterator[Cloud]:
    async with service_context() as context:
        cloud = Cloud(context, clock or context.clock)
        await cloud.outside.subscribe(subjects.all_work(V), cloud.hear)
        await cloud.driver.start()
        task = context.tasks.start(cloud.driver.run(), name="driver")
        yield cloud
        task.cancel()
        await cloud.driver.stop()


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    """One whose first turn is over."""
    async with running() as cloud:
        has_reported = asyncio.Event()
        stats = subjects.scheduler_stat(SchedulerId("s"))
        await cloud.outside.subscribe(stats, lambda _: has_reported.set())
        async with asyncio.timeout(10.0):
            await has_reported.wait()
        yield cloud


async def turns() -> None:
    """The loop's other tasks take theirs."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_arrives_together_is_decided_and_sent_together(cloud: Cloud) -> None:
    num_turns = cloud.num_turns

    await cloud.outside.publish(subjects.verifier_stat(V), encode(stat()))
    for session in (A, B, C):
        await cloud.outside.publish(subjects.up_draft(session, "main"), encode(draft()))
    await cloud.has_heard(1)

    assert cloud.num_turns <= num_turns + 2
    assert [len(batch.items) for batch in cloud.batches] == [3]


async def test_a_full_inbox_drops_the_newest_and_counts_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "INBOX_EVENTS", 2)
    await cloud.outside.publish(subjects.verifier_stat(V), encode(stat()))
    for session in (A, B, C):
        await cloud.outside.publish(subjects.up_draft(session, "main"), encode(draft()))
    await cloud.has_heard(1)

    assert cloud.dropped("inbox_full") == 2.0
    assert [len(batch.items) for batch in cloud.batches] == [1]


async def test_what_is_for_schedulers_of_another_group_is_left_to_them(cloud: Cloud) -> None:
    await cloud.outside.publish(subjects.verifier_stat(V), encode(stat()))
    await cloud.outside.publish(subjects.up_draft(A, "other"), encode(draft()))
    await cloud.outside.publish(subjects.up_draft(B, "main"), encode(draft()))
    await cloud.has_heard(1)

    assert cloud.dropped("other_group") == 1.0
    assert [[item.e for item in batch.items] for batch in cloud.batches] == [[B.edge]]


async def test_what_looks_late_after_a_stall_of_its_own_is_nobodys_silence() -> None:
    clock = ManualClock(100.0)
    async with running(clock) as cloud:
        await cloud.outside.publish(subjects.verifier_stat(V), encode(stat()))
        await cloud.outside.publish(subjects.up_draft(A, "main"), encode(draft()))
        await cloud.has_heard(1)

        clock.advance(1.0)
        cloud.driver.note_stall(1.0)
        await turns()
        await cloud.outside.publish(subjects.verifier_stat(V), encode(stat(1, last=1)))
        await cloud.outside.publish(subjects.up_draft(B, "main"), encode(draft()))
        await cloud.has_heard(2)

        assert cloud.lost("silent") == 0.0


async def test_a_service_tells_its_driver_that_the_loop_stalled() -> None:
    registry = CollectorRegistry()
    who = SchedulerIdentity(SchedulerId("s"), GroupId("main"), Epoch(1, 0), "one")
    arrived = asyncio.Event()
    async with service_context() as context:
        hub, health = MemoryHub(context.clock), HealthState()
        outside, link = hub.link("outside"), hub.link("scheduler")
        await outside.subscribe(subjects.all_work(V), lambda _: arrived.set())
        serving = serve(
            who,
            SchedulerLimits(policy="greedy"),
            link=link,
            context=context,
            metrics=SchedulerMetrics(registry),
            health=health,
        )
        task = context.tasks.start(serving, name="scheduler")
        while not health.is_ready:
            await asyncio.sleep(0)
        for number, session in enumerate((A, B)):
            arrived.clear()
            told = stat(number, last=number)
            await outside.publish(subjects.verifier_stat(V), encode(told))
            await outside.publish(subjects.up_draft(session, "main"), encode(draft()))
            async with asyncio.timeout(10.0):
                await arrived.wait()
            time.sleep(0.6)  # the loop is blocked: longer than a verifier may be silent
            await turns()
        task.cancel()

    lost = registry.get_sample_value("specedge_verifiers_lost_total", {"reason": "silent"})
    assert lost == 0.0
