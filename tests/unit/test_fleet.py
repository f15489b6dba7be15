"""A fleet's parts: devices that take time but no thread, arrivals, pacing, and what is counted."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specedge.clock import ManualClock
from specedge.drafting.counts import DraftCounts
from specedge.drafting.growth_rule import GrowthRule
from specedge.drafting.rounds import Decision
from specedge.engine.emulated_agreement import LevelAgreement
from specedge.errors import Busy, InvalidRequest
from specedge.ids import EDGE_ID, EdgeId
from specedge.link.memory import MemoryHub
from specedge.params import DraftPolicy
from specedge.protocol.effects import Committed, Ended
from specedge.protocol.messages import Timing, Verdict
from specedge.service.runtime import LoopClock, service_context
from specedge_edge.fleet.app import Fleet, edge_id, line_on, run_fleet
from specedge_edge.fleet.arrivals import bursty_trace, poisson, replayed
from specedge_edge.fleet.config import FleetSettings
from specedge_edge.fleet.device import EmulatedCompute
from specedge_edge.fleet.edges import Common, FleetEdge, prompt_of
from specedge_edge.fleet.figures import FleetLog, quantiles
from specedge_edge.generation import Generation
from specedge_edge.pacing import RoundPacing
from specedge_edge.proactive import PassTime
from specedge_edge.proposer import ProposerFigures
from specedge_edge.session_proposer import SessionProposer


class World:
    """A device on a clock that tests turn; work of any length."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.device = EmulatedCompute(self.clock)
        self.seen: list[tuple[str, float]] = []

    def work(self, name: str, seconds: float) -> str:
        self.seen.append((name, round(self.device.now_s(), 6)))
        self.device.work(seconds)
        return name

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(0)


async def test_an_outcome_is_known_when_the_device_would_have_finished() -> None:
    world = World()

    outcome = world.device.start(world.work, "draft", 0.044)
    await world.advance(0.043)
    assert not outcome.done()
    await world.advance(0.001)

    assert await outcome == "draft"
    assert world.device.busy_s == pytest.approx(0.044)


async def test_calls_run_one_after_the_other_in_the_order_of_asking() -> None:
    world = World()

    first = world.device.start(world.work, "first", 0.01)
    second = world.device.start(world.work, "second", 0.02)
    await world.advance(0.01)
    assert first.done()
    assert not second.done()
    await world.advance(0.02)

    assert await second == "second"
    assert world.seen == [("first", 0.0), ("second", 0.01)]


async def test_a_call_waits_for_the_idle_step_that_runs_and_for_no_other() -> None:
    world = World()

    idle = world.device.start_idle(lambda: bool(world.work("idle", 0.011)))
    await world.advance(0.015)  # in the second step
    outcome = world.device.start(world.work, "draft", 0.004)
    await world.advance(0.011)
    idle.stop()

    assert await outcome == "draft"
    assert world.seen[:3] == [("idle", 0.0), ("idle", 0.011), ("draft", 0.022)]


async def test_idle_work_ends_when_it_says_so_or_is_stopped() -> None:
    world = World()
    left = [True, False]

    def step() -> bool:
        world.work("idle", 0.01)
        return left.pop(0)

    world.device.start_idle(step)
    stopped = world.device.start_idle(lambda: bool(world.work("never", 0.01)))
    stopped.stop()
    await world.advance(1.0)

    assert [name for name, _ in world.seen] == ["idle", "idle"]


async def test_a_call_that_is_withdrawn_before_its_turn_never_begins() -> None:
    world = World()

    world.device.start(world.work, "first", 0.01)
    withdrawn = world.device.start(world.work, "withdrawn", 0.02)
    last = world.device.start(world.work, "last", 0.005)
    withdrawn.cancel()
    await world.advance(0.01)
    await world.advance(0.005)

    assert await last == "last"
    assert world.seen == [("first", 0.0), ("last", 0.01)]
    assert world.device.busy_s == pytest.approx(0.015)


async def test_what_a_call_raises_is_the_askers() -> None:
    world = World()

    def fail() -> None:
        raise Busy("no slot")

    outcome = world.device.start(fail)
    await world.advance(0.0)

    with pytest.raises(Busy):
        await outcome


def test_arrivals_come_at_their_mean_rate() -> None:
    moments = [next_s for next_s, _ in zip(poisson(50.0, seed=1), range(2000), strict=False)]
    bursty = bursty_trace(50.0, 400.0, seed=1)

    assert 2000 / moments[-1] == pytest.approx(50.0, rel=0.1)
    assert len(bursty) / 400.0 == pytest.approx(50.0, rel=0.2)
    assert bursty == sorted(bursty)
    assert list(replayed([3.0, 1.0])) == [1.0, 3.0]


def test_a_bursty_trace_is_burstier_than_independent_arrivals() -> None:
    """Variance over mean of the arrivals in a second: 1 for Poisson."""

    def dispersion(moments: list[float]) -> float:
        counts = [0] * 400
        for at_s in moments:
            counts[int(at_s)] += 1
        mean = sum(counts) / len(counts)
        return sum((count - mean) ** 2 for count in counts) / len(counts) / mean

    steady = [at_s for at_s, _ in zip(poisson(50.0, seed=2), range(25_000), strict=False)]

    assert dispersion([at_s for at_s in steady if at_s < 400]) == pytest.approx(1.0, abs=0.3)
    assert dispersion(bursty_trace(50.0, 400.0, seed=2)) > 5


def committed(timing: Timing, trip_s: float | None = 0.090) -> Committed:
    verdict = Verdict(
        round=0, try_=0, at="v", path=(), bonus=5, kept=0, base=2, hash="0" * 16, timing=timing
    )
    return Committed(tokens=[5], verdict=verdict, was_tree=True, round_trip_s=trip_s)


def paced_passes(timing: Timing, *, arrived_s: float = 10.0, now_s: float = 10.0) -> int | None:
    pass_time = PassTime()
    pass_time.add(0.011, 1)
    pacing = RoundPacing(pass_time)
    pacing.observe(committed(timing), arrived_s)
    policy = pacing.paced(Decision(DraftPolicy(depth=16)), now_s).policy
    assert policy is not None
    return policy.passes


def test_a_round_has_the_passes_that_fit_before_its_draft_is_wanted() -> None:
    # Of the trip's 90 ms the cloud had 76, so 14 are the network's; 94 - 14 are left: 7.3 passes,
    # less the fifth of one that they vary by.
    timing = Timing(held=2.0, queue=14.0, step=60.0, next=94.0)

    assert paced_passes(timing) == 7, "the eighth level is not worth most of a pass"
    assert paced_passes(timing, now_s=10.038) == 4, "the fourth is worth nearly as much"
    assert paced_passes(timing, now_s=10.071) == 1, "there was time for nine tenths of one"
    assert paced_passes(timing, now_s=10.025) == 5
    assert paced_passes(timing, now_s=11.0) == 1


def test_passes_before_the_draft_is_wanted_cost_a_rule_nothing() -> None:
    figures = np.zeros((1, 1, 1))
    rule = GrowthRule(0.05, 1.0, 11.0, 0.1, np.linspace(50.0, 60.0, 9), figures)
    pass_time = PassTime()
    pass_time.add(0.011, 1)
    pacing = RoundPacing(pass_time)
    pacing.observe(committed(Timing(held=2.0, queue=14.0, step=60.0, next=50.0)), 10.0)

    paced = pacing.paced(Decision(DraftPolicy(), rule), 10.0).rule

    assert paced is not None
    assert paced.free_passes == 3
    assert (paced.after(2).pass_ms, paced.after(3).pass_ms) == (0.0, 11.0)


@pytest.mark.parametrize(("allowed", "passes"), [(None, 4), (10, 4), (2, 2)])
def test_a_sessions_first_round_does_not_make_its_user_wait_for_many_passes(
    allowed: int | None, passes: int
) -> None:
    decision = Decision(DraftPolicy(depth=16, passes=allowed))

    paced = RoundPacing(PassTime()).paced(decision, 10.0).policy

    assert paced is not None and paced.passes == passes


def test_a_round_is_left_as_it_is_when_nobody_says_when_it_is_wanted() -> None:
    assert paced_passes(Timing(step=60.0)) is None
    assert paced_passes(Timing()) is None, "nor how long a step takes"


def test_an_edge_of_a_fleet_has_a_key_like_any_other() -> None:
    assert EDGE_ID.match(edge_id("fleet/1"))
    assert edge_id("fleet/1") != edge_id("fleet/2")


def test_arrivals_that_cannot_be_read_are_refused_at_the_start(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("0.5\n1.25\n")
    assert FleetSettings(arrivals_file=trace).known_arrivals() == [0.5, 1.25]

    trace.write_text("0.5\nsoon\n")
    for file in (trace, tmp_path / "none"):
        with pytest.raises(InvalidRequest, match="arrivals_file"):
            FleetSettings(arrivals_file=file).known_arrivals()


def test_the_same_session_has_the_same_prompt_in_any_fleet() -> None:
    settings = FleetSettings(prompt_tokens=5)

    assert prompt_of(3, settings).tolist() == prompt_of(3, replace_edges(settings)).tolist()
    assert prompt_of(3, settings).tolist() != prompt_of(4, settings).tolist()


def replace_edges(settings: FleetSettings) -> FleetSettings:
    return settings.model_copy(update={"edges": 100, "fleet": "another"})


def test_nothing_counts_before_the_measured_time() -> None:
    log = FleetLog()

    assert not log.is_measuring
    log.begin(5.0)
    log.note_round(committed(Timing(step=60.0, queue=4.0)))
    summary = log.summary(wall_s=2.0)

    assert (summary["tokens"], summary["rounds"], summary["reached"]) == (1, 1, [1.0])
    assert (summary["step_ms"], summary["queue_ms"]) == (60.0, 4.0)


@pytest.mark.parametrize("is_measuring", [False, True])
async def test_failures_count_in_the_measured_time_alone(
    is_measuring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_: Generation) -> None:
        raise Busy("too many sessions", retry_ms=100)

    monkeypatch.setattr(Generation, "run", run)
    clock = LoopClock()
    common = Common(FleetSettings(), clock, FleetLog(), LevelAgreement([1.0]))
    edge = FleetEdge(EdgeId("U" + "A" * 55), MemoryHub(clock).link("edge"), common)
    if is_measuring:
        common.log.begin(clock.now_s())

    assert await edge.generate(0) is False

    assert common.log.num_failed == sum(common.log.errors.values()) == int(is_measuring)


async def test_what_a_session_drafted_before_the_measured_time_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = LoopClock()
    common = Common(FleetSettings(), clock, FleetLog(), LevelAgreement([1.0]))
    edge = FleetEdge(EdgeId("U" + "A" * 55), MemoryHub(clock).link("edge"), common)
    so_far = DraftCounts(passes=10, verdicts=8, hits=8)
    monkeypatch.setattr(
        SessionProposer, "figures", property(lambda _: ProposerFigures(counts=so_far))
    )

    async def run(generation: Generation) -> Ended:
        generation.account.reply_ms += [900.0] * 8
        common.log.begin(clock.now_s())
        edge.begin()
        generation.account.reply_ms += [5.0, 7.0]
        generation.account.drafting = so_far + DraftCounts(passes=6, verdicts=2, hits=1)
        return Ended("stop")

    monkeypatch.setattr(Generation, "run", run)

    assert await edge.generate(0)

    summary = common.log.summary(wall_s=1.0)
    assert (summary["hit_rate"], summary["passes_per_round"]) == (0.5, 3.0)
    assert common.log.reply_ms == [5.0, 7.0]


async def test_a_line_is_waited_for_and_an_end_without_one_is_told_apart() -> None:
    for words, is_line in ((b"go\n", True), (b"", False)):
        mine, theirs = os.pipe()
        os.write(theirs, words)
        os.close(theirs)
        assert await line_on(mine) is is_line
        os.close(mine)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_fleet_that_waits_ends_when_the_drain_begins(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the line that says go, and for a place before that."""
    connected, mine_and_theirs = asyncio.Event(), os.pipe()

    async def connect(_: Fleet) -> None:
        connected.set()
        if not waits:
            await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Fleet, "connect", connect)
    monkeypatch.setattr(sys, "stdin", os.fdopen(mine_and_theirs[0]))
    async with service_context() as context, asyncio.timeout(10):
        running = context.tasks.start(run_fleet(context, FleetSettings(waits=waits)), name="fleet")
        await connected.wait()
        context.begin_drain()
        await running

    sys.stdin.close()
    os.close(mine_and_theirs[1])


def test_quantiles_are_nearest_ranks() -> None:
    found = quantiles([float(value) for value in range(1, 101)])

    assert found == {"mean": 50.5, "p50": 50.0, "p90": 90.0, "p99": 99.0, "count": 100}
    assert quantiles([]) is None


def test_a_round_drafts_its_passes_beyond_what_was_there_already() -> None:
    from specedge.drafting.tree_drafter import TreeDrafter
    from specedge.engine.emulated import EmulatedDrafter, EmulatedText
    from specedge.params import SamplingParams
    from specedge.tree.ahead import AheadPolicy

    text, prompt = EmulatedText(), np.arange(4, dtype=np.int32)
    drafter = TreeDrafter(EmulatedDrafter(text, agreement=(1.0,), branch=1))
    drafter.start(prompt, SamplingParams())
    policy = DraftPolicy(depth=9, branch=1, passes=2)
    prefix, path = text.fold_all(prompt), []

    first = drafter.draft(policy)
    for _ in range(4):
        drafter.step_ahead(AheadPolicy(levels=9, beams=1, branch=1))
    for _ in range(3):
        path.append(text.choice(prefix, SamplingParams()))
        prefix = text.fold(prefix, path[-1])
    drafter.on_verdict(path[:2], path[2])
    second = drafter.draft(policy)

    # Of six levels two were the path and one the bonus; three are there, and two are drafted.
    assert int(first.depth.max()) == 2
    assert int(second.depth.max()) == 5
    assert int(drafter.draft(replace(policy, depth=4)).depth.max()) == 4
