"""Alerts that fire: what an alert is about, brought about, changes what its expression reads."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest
from prometheus_client import CollectorRegistry

from specedge.clock import ManualClock
from specedge.link.memory import MemoryHub
from specedge.protocol.messages import Cold, Rejected, Verdict
from specedge.protocol.verifier_session import VerifierSession
from specedge.service.metrics import ServiceMetrics
from specedge_edge.metrics import StandingCollector
from specedge_edge.standing import DrafterStanding
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.types import DraftArrived, Effect, OpenAsked
from specedge_verifier.entry import SessionTimes
from tests.deploy.promql import Asked, asked_by
from tests.deploy.test_monitoring import UP, alerts
from tests.edge_world import edge_world
from tests.integration.cloud_world import (
    POISON,
    PROMPT,
    ReadyToDraft,
    ScriptedEdge,
    cloud,
    truth,
)
from tests.unit.scheduler_facts import draft, key
from tests.unit.scheduler_world import V1, World
from tests.unit.test_scheduler_policy_places import REQUEST

EXPRESSIONS: Final[dict[str, str]] = {rule["alert"]: rule["expr"] for rule in alerts()}
FAILED_SESSIONS: Final = "specedge_session_events_total"
# A registry before what the alert is about, and each time that it should be read afterwards.
Moments = AsyncGenerator[CollectorRegistry, None]


class Scheduling:
    """A policy, whose effects are counted as the driver does."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.world = World()
        self._metrics = SchedulerMetrics(self.registry)

    def count(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._metrics.note(effect)
        self._metrics.observe(self.world.policy.cluster)


async def a_verifier_falls_silent(_: Path) -> Moments:
    told = Scheduling()
    told.count(told.world.stat())
    yield told.registry
    told.count(told.world.wait(1.0))
    yield told.registry


async def a_session_is_refused(_: Path) -> Moments:
    told = Scheduling()
    yield told.registry
    told.count(told.world.tell(OpenAsked(key(), REQUEST, "inbox")))
    yield told.registry


async def a_round_waits(_: Path) -> Moments:
    told = Scheduling()
    yield told.registry
    hold(told, 0.3)
    yield told.registry


async def the_broker_goes_away(_: Path) -> Moments:
    metrics, link = ServiceMetrics("edge"), MemoryHub(ManualClock()).link("edge")
    metrics.watch_link(link)
    yield metrics.registry
    link.cut()
    yield metrics.registry


async def the_broker_denies_something(_: Path) -> Moments:
    metrics, link = ServiceMetrics("edge"), MemoryHub(ManualClock()).link("edge")
    metrics.watch_link(link)
    yield metrics.registry
    link.counters.permission_denials += 1  # as the link over NATS does: this one knows of none
    yield metrics.registry


async def more_is_said_than_is_heard(_: Path) -> Moments:
    clock = ManualClock()
    metrics, link = ServiceMetrics("edge"), MemoryHub(clock).link("edge")
    metrics.watch_link(link)
    await link.subscribe("news", lambda _: None, max_pending=1)
    yield metrics.registry
    for _number in range(2):
        await link.publish("news", b"")
    clock.advance(0.0)
    yield metrics.registry


async def the_loop_of_an_edge_is_stuck(folder: Path) -> Moments:
    async with edge_world(folder) as world:
        registry = world.edge.metrics.registry
        world.edge._context.watchdog.take_worst_lag_s()
        yield registry
        stalled = False

        def note(_lag_s: float) -> None:
            nonlocal stalled
            stalled = True

        world.edge._context.watchdog.on_stall(note)
        while not stalled:
            time.sleep(0.3)  # the loop is blocked: that is the point
            await world.client.get("/live")
        yield registry


async def the_drafter_fails(_: Path) -> Moments:
    standing, registry = DrafterStanding(), CollectorRegistry()
    registry.register(StandingCollector(standing))
    yield registry
    standing.on_failure(ArithmeticError("broken"), 0.0)
    yield registry


async def the_engine_breaks_off_a_step(_: Path) -> Moments:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1")
        session = await ReadyToDraft.make(await ScriptedEdge(world, "A").start(), [1, 2, POISON])
        yield verifier.metrics.registry
        assert isinstance(await session.say({}), Rejected)
        yield verifier.metrics.registry


async def a_session_has_a_fault(_: Path) -> Moments:
    def fail(*_: object) -> None:
        raise ArithmeticError("a fault")

    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1")
        session = await ReadyToDraft.make(await ScriptedEdge(world, "A").start(), PROMPT)
        assert isinstance(await session.say({}), Verdict)
        yield verifier.metrics.registry
        with patch.object(VerifierSession, "on", fail):
            unanswered = world.tasks.start(session.say({}), name="unanswered")
            while verifier.count(FAILED_SESSIONS, event="failed") == 0:
                await asyncio.sleep(0.01)
        unanswered.cancel()
        assert isinstance(await session.say({}), Cold), "it begins anew"
        yield verifier.metrics.registry


async def a_draft_is_accepted(_: Path) -> Moments:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        yield verifier.metrics.registry
        await edge.session(PROMPT, 10, truth()).run()
        yield verifier.metrics.registry


async def sessions_do_not_fit_together(_: Path) -> Moments:
    async with cloud() as world:
        await world.start_scheduler()
        times = SessionTimes(park_s=0.0)
        verifier = await world.start_verifier("v1", kv_tokens=400, times=times)
        yield verifier.metrics.registry
        running = []
        for number, letter in enumerate("AB"):
            edge = await ScriptedEdge(world, letter).start()
            session = edge.session(list(range(1 + number, 181 + number)), 60, truth())
            running.append(world.tasks.start(session.run(), name=letter))
            await session.committed_some.wait()
            yield verifier.metrics.registry
        for task in running:
            await task
        yield verifier.metrics.registry


EVENTS: Final[dict[str, Callable[[Path], Moments]]] = {
    "SpecEdgeNoVerifier": a_verifier_falls_silent,
    "SpecEdgeBrokerUnreachable": the_broker_goes_away,
    "SpecEdgeVerifierLost": a_verifier_falls_silent,
    "SpecEdgeStepsFailed": the_engine_breaks_off_a_step,
    "SpecEdgeSessionsFail": a_session_has_a_fault,
    "SpecEdgePermissionDenied": the_broker_denies_something,
    "SpecEdgeTooSlowToListen": more_is_said_than_is_heard,
    "SpecEdgeEventLoopSlow": the_loop_of_an_edge_is_stuck,
    "SpecEdgeDrafterFails": the_drafter_fails,
    "SpecEdgeRefusesSessions": a_session_is_refused,
    "SpecEdgeRoundsWait": a_round_waits,
    "SpecEdgeCacheFull": sessions_do_not_fit_together,
    "SpecEdgeDraftsRejected": a_draft_is_accepted,
}


def test_every_alert_on_what_services_export_has_its_event() -> None:
    on_ours = {name for name, text in EXPRESSIONS.items() if asked_by(text)[0].metric != UP}

    assert EVENTS.keys() == on_ours


@pytest.mark.parametrize("alert", EVENTS)
async def test_what_an_alert_is_about_moves_every_metric_that_it_reads(
    alert: str, tmp_path: Path
) -> None:
    selectors = asked_by(EXPRESSIONS[alert])
    async with aclosing(EVENTS[alert](tmp_path)) as moments:
        readings = [[read(registry, asked) for asked in selectors] async for registry in moments]

    for asked, values in zip(selectors, zip(*readings, strict=True), strict=True):
        assert len(set(values)) > 1, asked


@pytest.mark.parametrize(("held_s", "is_too_long"), [(0.04, False), (0.15, False), (0.3, True)])
def test_rounds_are_said_to_wait_when_they_wait_for_longer_than_the_alert_says(
    held_s: float, is_too_long: bool
) -> None:
    """A quarter of a second: in other units it would always be passed, or never."""
    told = Scheduling()
    (asked,) = asked_by(EXPRESSIONS["SpecEdgeRoundsWait"])
    hold(told, held_s)

    buckets = {
        float(sample.labels["le"]): sample.value
        for family in told.registry.collect()
        for sample in family.samples
        if sample.name == asked.metric
    }

    assert buckets[float("inf")] == 1.0
    assert (buckets[0.2] == 0.0) == is_too_long
    assert buckets[0.5] == 1.0


def read(registry: CollectorRegistry, asked: Asked) -> float:
    """The sum of the samples that it selects. Of a histogram's buckets, that of all."""
    wanted = {name: value for name, value in asked.equals.items() if name != "job"}
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == asked.metric and wanted.items() <= sample.labels.items()
    )


def hold(told: Scheduling, held_s: float) -> None:
    """A round waits for a verifier for so long, and goes."""
    told.count(told.world.tell(DraftArrived(key(), draft(budget_ms=9000))))
    told.world.clock.advance(held_s)
    told.count(told.world.stat(V1))
