"""The verifier's end of a session: slots, steps that fail or take long, and progress."""

import numpy as np
import pytest

from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import Cold, Progress, Rejected, Verdict
from specedge.protocol.opening import Reason
from specedge.protocol.verifier_effects import (
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepBegun,
    StepFailed,
    Stepped,
    WantSlot,
)
from specedge.protocol.verifier_states import VerifierState
from tests.unit.verifier_bench import PROMPT, Bench, find, reply_in, step_in


def test_without_a_slot_the_round_is_busy_and_the_next_try_asks_again() -> None:
    bench = Bench()
    bench.on(bench.context())
    bench.on(bench.work())

    rejected = reply_in(bench.on(SlotDenied(retry_ms=70)), Rejected)

    assert (rejected.rejected, rejected.retry_ms) == (Reason.BUSY, 70)
    assert bench.session.state is VerifierState.READY
    assert find(bench.on(bench.work(try_=1)), WantSlot)


def test_a_parked_session_is_prefilled_again_for_its_next_round() -> None:
    bench = Bench()
    bench.ready()
    bench.on(SlotTaken())

    assert bench.session.state is VerifierState.READY
    assert find(bench.on(bench.work()), WantSlot)
    assert step_in(bench.on(SlotGiven())).tree is None
    assert step_in(bench.step(num_chain=9)).tree is not None


def test_a_slot_that_came_when_the_round_had_expired_stays_for_the_next() -> None:
    bench = Bench()
    bench.ready()
    bench.on(SlotTaken())
    bench.on(bench.work(budget_ms=100))

    assert reply_in(bench.on(TimerDue(), 0.1), Rejected).rejected is Reason.EXPIRED
    assert bench.session.state is VerifierState.FILLING
    bench.on(SlotGiven())

    assert bench.session.state is VerifierState.READY
    assert bench.session.has_slot


@pytest.mark.parametrize(("retry_ms", "said"), [(70, 70), (None, 200)])
def test_a_failed_step_rejects_the_round_and_leaves_the_session_usable(
    retry_ms: int | None, said: int
) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))

    rejected = reply_in(bench.on(StepFailed("out of memory", retry_ms)), Rejected)

    assert (rejected.rejected, rejected.retry_ms) == (Reason.BUSY, said)
    assert "out of memory" in rejected.message
    assert step_in(bench.on(bench.work(try_=1)))


def test_a_long_prefill_shows_progress_every_250_ms_and_extends_the_deadline() -> None:
    bench = Bench()
    bench.on(bench.context())
    bench.on(bench.work())
    bench.on(SlotGiven())

    for done in (0, 2, 4):
        progress = reply_in(bench.on(TimerDue(), 0.25), Progress)
        assert (progress.round, progress.progress) == (0, (done, 10))
        if done < 4:
            bench.step(num_chain=2)

    asked = step_in(bench.step(num_chain=2))
    assert asked.tree is not None, "the round itself"
    assert asked.deadline_s == pytest.approx(bench.now_s + 0.6)


def test_a_context_that_stopped_coming_shows_no_progress() -> None:
    bench = Bench()
    effects = bench.on(bench.context(off=0, end=3))
    assert find(effects, SetTimer)

    effects = bench.on(TimerDue(), 0.25)
    assert reply_in(effects, Progress).progress == (3, 10)
    assert not find(effects, SetTimer), "it rings no more"


def test_progress_names_the_draft_that_waits_for_its_context() -> None:
    bench = Bench()
    bench.on(bench.context(off=0, end=3))
    bench.on(bench.work(try_=2))

    assert reply_in(bench.on(TimerDue(), 0.25), Progress).try_ == 2


def test_a_round_not_begun_is_taken_over_into_a_context_that_it_fits_too() -> None:
    bench = Bench(max_chain_tokens=16)
    bench.ready(1, 2)
    bench.on(bench.work(1, round_=3))

    effects = bench.on(bench.context(1, 9, round_=3))

    step = step_in(effects)
    assert step.chain.tolist() == [1]
    assert step.tree is not None
    assert bench.session.committed.tolist() == [*PROMPT, 1]


def test_an_early_timer_is_asked_for_again() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())

    assert bench.on(TimerDue(), 0.1) == [SetTimer(0.25)]


def test_work_for_a_later_round_that_comes_during_a_step_is_taken_after_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))
    bench.on(bench.work(5, round_=1))

    progress = reply_in(bench.on(TimerDue(), 0.25), Progress)
    effects = bench.on(Stepped(np.asarray([5], dtype=np.int32)))

    assert progress.round == 1, "the newest round is the one that somebody waits for"
    assert reply_in(effects, Verdict).round == 0
    assert step_in(effects).chain.tolist() == [5]


def test_a_context_that_completes_during_a_step_is_installed_after_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))

    bench.on(bench.context(8, 8, round_=3))
    assert bench.session.committed.tolist() == PROMPT
    bench.on(Stepped(np.asarray([5], dtype=np.int32)))

    assert bench.session.committed.tolist() == [*PROMPT, 8, 8]


def test_a_context_that_replaces_a_round_not_begun_makes_it_cold() -> None:
    bench = Bench()
    bench.ready(1)
    bench.on(bench.work(1, round_=3))

    effects = bench.on(bench.context(8, 8, round_=3))

    assert reply_in(effects, Cold).round == 3
