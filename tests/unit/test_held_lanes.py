"""What a scheduler records of the drafts that it held: on no lane may spans overlap."""

import asyncio
import json

from prometheus_client import CollectorRegistry

from specedge.ids import GroupId, SchedulerId, VerifierId
from specedge.link.memory import MemoryHub
from specedge.protocol import subjects
from specedge.protocol.codec import encode
from specedge.service.runtime import service_context
from specedge.service.spans import SpanRing
from specedge_scheduler.driver import Driver
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import SchedulerLimits
from tests.unit.scheduler_facts import draft, key, stat

V = VerifierId("v1")
# Told apart by their first digits, as random ones are.
OF_ONE_EDGE = (key("A", 0x1 << 124), key("A", 0x2 << 124))
GROUP = GroupId("main")


async def test_sessions_of_one_edge_are_held_on_lanes_of_their_own() -> None:
    spans, sent = SpanRing(100), asyncio.Event()
    async with service_context() as context, asyncio.timeout(10):
        hub = MemoryHub(context.clock)
        outside = hub.link("outside")
        driver = Driver(
            SchedulerId("s"),
            SchedulerPolicy(GROUP, (1, 0), SchedulerLimits(policy="greedy")),
            hub.link("scheduler"),
            context.clock,
            SchedulerMetrics(CollectorRegistry()),
            incarnation="one",
            spans=spans,
        )
        await outside.subscribe(subjects.all_work(V), lambda _: sent.set())
        await driver.start()
        context.tasks.start(driver.run(), name="driver")

        await outside.publish(subjects.verifier_stat(V), encode(stat()))
        for session in OF_ONE_EDGE:
            await outside.publish(subjects.up_draft(session, GROUP), encode(draft()))
        await sent.wait()
        await driver.stop()

    lanes = [lane for lane, name, *_ in map(json.loads, spans.lines()) if name == "held"]
    assert len(set(lanes)) == len(lanes) == 2
    assert all(lane.startswith("held UAAAAAAA ") for lane in lanes)
