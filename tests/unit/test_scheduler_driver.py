"""Between link and policy: everything that arrived together is one turn."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from specedge.ids import GroupId, SchedulerId, VerifierId
from specedge.link.base import Message
from specedge.link.memory import MemoryHub, MemoryLink
from specedge.protocol import subjects
from specedge.protocol.codec import decode, encode
from specedge.protocol.messages import Batch
from specedge.service.runtime import ServiceContext, service_context
from specedge_scheduler import driver as driver_module
from specedge_scheduler.driver import Driver
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import SchedulerLimits
from tests.unit.scheduler_facts import draft, key, stat

V = VerifierId("v1")
A, B, C = (key(letter) for letter in "ABC")


class Cloud:
    """A driver, and what its verifier was sent."""

    def __init__(self, context: ServiceContext) -> None:
        hub = MemoryHub(context.clock)
        self.registry = CollectorRegistry()
        self.outside: MemoryLink = hub.link("outside")
        self.batches: list[Batch] = []
        policy = SchedulerPolicy(GroupId("main"), (1, 0), SchedulerLimits(policy="greedy"))
        self.driver = Driver(
            SchedulerId("s"),
            policy,
            hub.link("scheduler"),
            context.clock,
            SchedulerMetrics(self.registry),
            incarnation="one",
        )

    @property
    def num_turns(self) -> float:
        return self.registry.get_sample_value("specedge_decision_seconds_count") or 0.0

    def dropped(self, reason: str) -> float:
        name = "specedge_messages_dropped_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0.0

    def hear(self, message: Message) -> None:
        self.batches.append(decode(Batch, message.payload))


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    async with service_context() as context:
        cloud = Cloud(context)
        await cloud.outside.subscribe(subjects.all_work(V), cloud.hear)
        await cloud.driver.start()
        task = context.tasks.start(cloud.driver.run(), name="driver")
        await _until(cloud, 1)
        yield cloud
        task.cancel()
        await cloud.driver.stop()


async def _until(cloud: Cloud, turns: int) -> None:
    """So many turns were taken, and what they sent has arrived."""
    while cloud.num_turns < turns:
        await asyncio.sleep(0.001)  # the loop's other tasks take theirs
    await asyncio.sleep(0.01)


async def test_what_arrives_together_is_decided_and_sent_together(cloud: Cloud) -> None:
    turns = cloud.num_turns

    await cloud.outside.publish(subjects.verifier_stat(V), encode(stat()))
    for session in (A, B, C):
        await cloud.outside.publish(subjects.up_draft(session, "main"), encode(draft()))
    await _until(cloud, int(turns) + 1)

    assert cloud.num_turns <= turns + 2
    assert [len(batch.items) for batch in cloud.batches] == [3]


async def test_a_full_inbox_drops_the_newest_and_counts_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "INBOX_EVENTS", 2)
    turns = cloud.num_turns

    await cloud.outside.publish(subjects.verifier_stat(V), encode(stat()))
    for session in (A, B, C):
        await cloud.outside.publish(subjects.up_draft(session, "main"), encode(draft()))
    await _until(cloud, int(turns) + 1)

    assert cloud.dropped("inbox_full") == 2.0
    assert [len(batch.items) for batch in cloud.batches] == [1]


async def test_what_is_for_schedulers_of_another_group_is_left_to_them(cloud: Cloud) -> None:
    turns = cloud.num_turns

    await cloud.outside.publish(subjects.verifier_stat(V), encode(stat()))
    await cloud.outside.publish(subjects.up_draft(A, "other"), encode(draft()))
    await cloud.outside.publish(subjects.up_draft(B, "main"), encode(draft()))
    await _until(cloud, int(turns) + 1)

    assert cloud.dropped("other_group") == 1.0
    assert [[item.e for item in batch.items] for batch in cloud.batches] == [[B.edge]]
