"""Drafting on while a draft is out: what a hit spares, when it stops, and what a failure does."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from specedge.clock import ManualClock
from specedge.engine.emulated import EmulatedDrafter, EmulatedText
from specedge.engine.failing_drafter import NAN, FailingDrafter
from specedge.service.compute import ComputeThread
from specedge.tree.path import find_path
from specedge_edge.standing import REST_S, DrafterStanding
from tests.unit.drafting_session import (
    LIMITS,
    PASS_S,
    POLICY,
    Session,
)


async def test_after_a_hit_with_a_full_head_start_the_draft_is_ready(
    compute: ComputeThread,
) -> None:
    session = Session(compute)
    first = await session.draft()
    await session.idle()
    before = session.proposer.figures.counts.passes
    session.answer(first.tree)

    second = await session.draft()

    figures = session.proposer.figures
    assert len(find_path(second.tree, session.truth)) == POLICY.depth
    assert (figures.counts.hits, figures.counts.passes) == (1, before)
    assert figures.saved_ms == pytest.approx(POLICY.depth * PASS_S * 1e3)
    await session.proposer.close()


async def test_a_miss_costs_what_it_costs_without(compute: ComputeThread) -> None:
    session = Session(compute)
    first = await session.draft()
    await session.idle()
    session.answer(first.tree, bonus=499)

    second = await session.draft()

    figures = session.proposer.figures
    assert second.tree.token[0] == 499
    assert (figures.counts.hits, figures.counts.passes, figures.saved_ms) == (0, 6, 0.0)
    await session.proposer.close()


async def test_it_can_be_switched_off(compute: ComputeThread) -> None:
    session = Session(compute, is_proactive=False)
    await session.draft()
    await session.idle()

    assert session.proposer.figures.counts.passes_ahead == 0
    await session.proposer.close()


async def test_no_pass_is_begun_that_would_end_after_the_expected_verdict(
    compute: ComputeThread,
) -> None:
    session = Session(compute)
    for after_s in (5.0, 2.5 * PASS_S):  # the first holds the prompt's prefill: it does not count
        first = await session.draft()
        await session.idle()
        session.answer(first.tree, bonus=499, after_s=after_s)
    before = session.proposer.figures.counts.passes_ahead

    await session.draft()
    await session.idle()

    assert session.proposer.figures.counts.passes_ahead - before == 2
    await session.proposer.close()


async def test_a_verdict_ends_it_at_the_next_pass(compute: ComputeThread) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def hold_first_ahead(number: int) -> None:
        if number == POLICY.depth:
            has_begun.set()
            may_end.wait(10)

    drafter = EmulatedDrafter(agreement=(1.0,))
    session = Session(compute, FailingDrafter(drafter, hold_first_ahead))
    first = await session.draft()
    await asyncio.to_thread(has_begun.wait, 10)

    session.answer(first.tree)
    may_end.set()
    await session.idle()

    assert session.proposer.figures.counts.passes_ahead == 1
    await session.proposer.close()


async def test_closing_ends_it_and_frees_the_drafter(compute: ComputeThread) -> None:
    drafter = FailingDrafter(EmulatedDrafter(EmulatedText()), lambda _: None)
    session = Session(compute, drafter)
    await session.draft()

    await session.proposer.close()
    passes = drafter.num_passes
    await compute.run(int)

    assert (drafter.num_open, drafter.num_passes) == (0, passes)


# ---------------------------------------------------------------- failures


def broken_from(number: int, clock: ManualClock, *, kind: Exception | str) -> FailingDrafter:
    """Fails in that pass and all after it until the drafter has rested once."""

    def fault(n: int) -> Exception | str | None:
        return kind if n >= number and clock.now_s() < REST_S else None

    return FailingDrafter(EmulatedDrafter(agreement=(1.0,)), fault)


@pytest.mark.parametrize("kind", [RuntimeError("out of memory"), NAN], ids=["error", "nan"])
@pytest.mark.parametrize("number", [0, 1, 3, 5], ids=["first", "inside", "ahead", "later-ahead"])
async def test_a_drafter_that_failed_rests_and_is_then_asked_again(
    compute: ComputeThread, number: int, kind: Exception | str
) -> None:
    clock = ManualClock()
    drafter = broken_from(number, clock, kind=kind)
    session = Session(compute, drafter, clock=clock)
    standing = session.source.standing
    with capture_logs() as logs:
        granted = await session.draft()
        if granted.run == 0:
            await session.idle()
            session.answer(granted.tree)
            granted = await session.draft()
        session.grant(4)
        resting = await session.draft()
        problem = standing.problem
        session.grant(2)
        clock.advance(REST_S)
        drafted = await session.draft()

    assert (granted.run, granted.tree.num_drafted) == (LIMITS.grant, 0)
    assert (resting.run, standing.num_failures) == (LIMITS.grant, 1)
    assert problem is not None and standing.problem is None
    assert len(find_path(drafted.tree, session.truth)) == POLICY.depth
    assert [entry["event"] for entry in logs] == ["drafting_failed", "drafting_resumed"]
    await session.proposer.close()
    assert drafter.num_open == 0


def test_a_drafter_that_fails_again_and_again_rests_longer_each_time() -> None:
    standing, now_s, rests = DrafterStanding(), 0.0, []
    for _ in range(9):
        standing.on_failure(ValueError("again"), now_s)
        before_s = now_s
        while not standing.may_draft(now_s):
            now_s += 1.0
        rests.append(now_s - before_s)

    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]
