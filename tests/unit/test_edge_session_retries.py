"""The edge's end of a session: when a round is said again, and when it is not."""

import pytest

from specedge.protocol.effects import LinkRestored, TimerDue
from specedge.protocol.messages import Cold, Progress, Rejected
from specedge.protocol.opening import Reason
from specedge.protocol.subjects import Up
from tests.unit.edge_bench import Bench, draft_in, sent, timer_in


@pytest.mark.parametrize("changed", [{"hash": "0" * 16}, {"base": 9}, {"bonus": 50}])
def test_a_verdict_on_another_prefix_brings_the_context_and_the_round_again(
    changed: dict[str, object],
) -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(7, **changed))

    assert sent(effects, Up.CONTEXT)
    assert draft_in(effects).try_ == 1
    assert bench.session.base == 3
    assert bench.session.counters["mismatched_verdict"] == 1
    assert bench.answer(bench.verdict(7, **changed)) == [], "only an answer to the newest try"


def test_silence_says_the_round_again_with_a_doubled_timer() -> None:
    bench = Bench()
    effects = bench.awaiting()
    first = draft_in(effects)

    waits = []
    for expected_try in (1, 2, 3):
        at_s = timer_in(effects)
        assert at_s is not None
        effects = bench.on(TimerDue(), at_s - bench.now_s)
        again = draft_in(effects)
        assert again.model_copy(update={"try_": 0, "budget_ms": 600}) == first
        assert again.try_ == expected_try
        waits.append((timer_in(effects) or 0.0) - bench.now_s)

    assert waits == pytest.approx([0.6, 1.2, 2.4])
    assert bench.session.counters["resends"] == 3


def test_cold_brings_the_context_and_the_round_as_a_new_try() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(Cold(round=0, try_=0))

    assert sent(effects, Up.CONTEXT)
    assert draft_in(effects).try_ == 1
    assert bench.session.counters["resyncs"] == 1


@pytest.mark.parametrize("cold", [Cold(round=0, try_=1), Cold(round=1, try_=0)])
def test_cold_for_another_round_or_try_is_ignored(cold: Cold) -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.answer(cold) == []


def test_a_busy_verifier_is_asked_again_after_its_own_time_without_doubling() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(Rejected(round=0, rejected=Reason.BUSY, retry_ms=70))
    assert timer_in(effects) == pytest.approx(0.07)
    effects = bench.on(TimerDue(), 0.07)

    assert draft_in(effects).budget_ms == 600


def test_an_expired_round_is_said_again_at_once_with_more_time() -> None:
    bench = Bench()
    bench.awaiting()

    draft = draft_in(bench.answer(Rejected(round=0, rejected=Reason.EXPIRED)))

    assert (draft.try_, draft.budget_ms) == (1, 1200)


def test_rejections_of_another_round_or_try_are_ignored() -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.answer(Rejected(round=1, rejected=Reason.INVALID)) == []
    assert bench.answer(Rejected(round=0, try_=1, rejected=Reason.BUSY)) == []
    assert bench.session.counters["stale_rejected"] == 2


def test_a_restored_link_says_the_round_again_at_once() -> None:
    bench = Bench()
    bench.awaiting()
    bench.on(TimerDue(), 0.3)

    effects = bench.on(LinkRestored(), 0.1)

    assert (draft_in(effects).try_, draft_in(effects).budget_ms) == (2, 600)


def test_a_round_trip_is_what_a_draft_took_and_not_what_its_prompt_did() -> None:
    bench = Bench()
    bench.awaiting()
    bench.answer(Progress(round=0, progress=(16, 400)), after_s=1.0)
    bench.answer(bench.verdict(7), after_s=1.0)
    assert bench.session.round_trip_s is None

    bench.on(bench.draft())
    bench.answer(bench.verdict(7), after_s=0.2)

    assert bench.session.round_trip_s == pytest.approx(0.2)


def test_a_round_trip_is_not_the_time_between_two_tokens_of_a_grant() -> None:
    bench = Bench()
    bench.hosted(run=8)
    bench.answer(bench.verdict(7, kept=0), after_s=0.5)
    for _ in range(3):
        bench.answer(bench.verdict(7, kept=0), after_s=0.01)
    bench.on(bench.grant(8), after_s=0.005)  # half of it is over: it is extended
    bench.answer(bench.verdict(7, kept=0), after_s=0.005)

    assert bench.session.round_trip_s == pytest.approx(0.5)
