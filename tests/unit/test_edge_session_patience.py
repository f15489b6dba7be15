"""The edge's end of a session: what its patience is counted from."""

import pytest

from specedge.errors import Busy
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import AskDraft, EdgeEffect, Ended, TimerDue
from specedge.protocol.messages import Progress, Rejected
from specedge.protocol.opening import Reason
from specedge.protocol.round_timer import EdgeSessionConfig
from tests.unit.edge_bench import Bench, draft_in, ended, find, timer_in

HOUR_S = 3600.0


def no_verifier(round_: int = 0, try_: int = 0) -> Rejected:
    return Rejected(round=round_, try_=try_, rejected=Reason.NO_VERIFIER, retry_ms=200)


def assert_it_asks_again(bench: Bench, effects: list[EdgeEffect], *, try_: int) -> None:
    assert not find(effects, Ended)
    assert timer_in(effects) == pytest.approx(bench.now_s + 0.2)
    assert draft_in(bench.on(TimerDue(), 0.2)).try_ == try_


def test_no_verifier_an_hour_after_a_verdict_counts_from_the_start() -> None:
    bench = Bench(EdgeSessionConfig(no_verifier_s=1.0))
    bench.awaiting()
    bench.answer(no_verifier())
    bench.on(TimerDue(), 0.2)
    bench.answer(bench.verdict(7, try_=1))

    bench.on(bench.draft(), HOUR_S)
    effects = bench.answer(no_verifier(round_=1))

    assert_it_asks_again(bench, effects, try_=1)


def test_no_verifier_long_after_progress_counts_from_the_start() -> None:
    bench = Bench(EdgeSessionConfig(no_verifier_s=1.0))
    bench.awaiting()
    bench.answer(no_verifier())
    bench.on(TimerDue(), 0.2)
    for row in range(10):
        bench.answer(Progress(round=0, try_=1, progress=(row, 400)), 0.25)

    effects = bench.answer(no_verifier(try_=1))

    assert_it_asks_again(bench, effects, try_=2)


def test_told_to_come_back_after_its_patience_a_session_ends_when_that_is_over() -> None:
    bench = Bench(EdgeSessionConfig(give_up_s=2.0))
    bench.awaiting()
    busy = Rejected(round=0, rejected=Reason.BUSY, retry_ms=60_000)

    at_s = timer_in(bench.answer(busy, 0.5))

    assert at_s == pytest.approx(2.0)
    assert isinstance(ended(bench.on(TimerDue(), at_s - bench.now_s)).error, Busy)


@pytest.mark.parametrize("is_first_round", [True, False])
def test_drafting_longer_than_its_patience_does_not_end_a_session_at_its_first_timer(
    is_first_round: bool,
) -> None:
    bench = Bench(EdgeSessionConfig(give_up_s=2.0, min_wait_s=0.3))
    if is_first_round:
        asked = bench.opened()
    else:
        bench.awaiting()
        asked = bench.answer(bench.verdict(7))
    assert find(asked, AskDraft)

    at_s = timer_in(bench.on(bench.draft(), 5.0))

    assert at_s == pytest.approx(bench.now_s + 0.3)
    assert draft_in(bench.on(TimerDue(), 0.3)).try_ == 1
    assert bench.session.state is EdgeState.AWAITING
