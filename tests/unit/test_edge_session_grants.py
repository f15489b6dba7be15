"""The edge's end of a session: grants, renewed, repeated and given up for drafts."""

import pytest

from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import AskDraft, Committed, SwitchAsked, TimerDue
from specedge.protocol.messages import Rejected
from specedge.protocol.opening import Reason
from tests.unit.edge_bench import Bench, draft_in, find, timer_in


def test_a_grant_is_a_draft_without_nodes_cut_to_the_limit() -> None:
    draft = draft_in(Bench().hosted(run=99))

    assert (draft.run, draft.token, draft.try_) == (8, (), 0)


def test_verdicts_of_a_grant_are_applied_in_order_and_half_of_it_asks_for_more() -> None:
    bench = Bench()
    bench.hosted(run=4)

    first = bench.answer(bench.verdict(11, kept=0))
    second = bench.answer(bench.verdict(12, kept=0))

    assert not find(first, AskDraft)
    assert find(second, AskDraft) == [AskDraft(round=2, max_nodes=4, base=5)]
    assert not find(second, Committed)[0].was_tree
    assert find(second, Committed)[0].round_trip_s is None
    renewal = draft_in(bench.on(bench.grant(4)))
    assert (renewal.round, renewal.try_, renewal.base, renewal.run) == (2, 0, 5, 4)


def test_a_grant_used_up_waits_for_the_draft_asked_for() -> None:
    bench = Bench()
    bench.hosted(run=2)
    bench.answer(bench.verdict(11, kept=0))

    effects = bench.answer(bench.verdict(12, kept=0))

    assert bench.session.state is EdgeState.DRAFTING
    assert timer_in(effects) is None
    assert draft_in(bench.on(bench.draft(base=5))).base == 5


def test_a_gap_is_asked_for_once_from_the_edge_own_base() -> None:
    bench = Bench()
    bench.hosted()

    effects = bench.answer(bench.verdict(12, round_=1))

    draft = draft_in(effects)
    assert (draft.round, draft.try_, draft.base, draft.run) == (0, 1, 3, 4)
    assert bench.answer(bench.verdict(13, round_=2)) == []


def test_silence_within_a_grant_repeats_it_as_at_least_try_one() -> None:
    bench = Bench()
    bench.hosted()
    bench.answer(bench.verdict(11, kept=0))

    draft = draft_in(bench.on(TimerDue(), 0.3))

    assert (draft.round, draft.try_, draft.base, draft.run) == (1, 1, 4, 4)


def test_a_busy_verifier_in_the_middle_of_a_grant_is_asked_again_after_its_own_time() -> None:
    bench = Bench()
    bench.hosted(run=4)
    bench.answer(bench.verdict(7, kept=0))

    effects = bench.answer(Rejected(round=1, rejected=Reason.BUSY, retry_ms=70))
    assert timer_in(effects) == pytest.approx(0.07)
    again = draft_in(bench.on(TimerDue(), 0.07))

    assert (again.round, again.try_, again.run) == (1, 1, 4)


def test_a_driver_may_go_back_to_drafting_in_the_middle_of_a_grant() -> None:
    bench = Bench()
    bench.hosted(run=8)

    asked = bench.on(SwitchAsked())
    draft = draft_in(bench.on(bench.draft()))

    assert find(asked, AskDraft)
    assert bench.on(SwitchAsked()) == [], "nothing to ask for while a draft is out"
    assert (draft.round, draft.try_, draft.run) == (0, 1, 0)
    assert bench.session.state is EdgeState.AWAITING


def test_a_tree_drafted_while_a_grant_ran_on_is_carried_to_the_new_root() -> None:
    bench = Bench()
    bench.hosted(run=8)
    bench.on(SwitchAsked())
    drafted = bench.draft()
    bench.answer(bench.verdict(7, kept=0))

    draft = draft_in(bench.on(drafted))

    assert (draft.round, draft.base) == (1, 4)
    assert (draft.token, draft.parent) == ((8, 9), (-1, -1))


def test_a_tree_that_the_grant_left_behind_becomes_an_empty_draft() -> None:
    bench = Bench()
    bench.hosted(run=8)
    bench.on(SwitchAsked())
    drafted = bench.draft()
    bench.answer(bench.verdict(30, kept=0))

    assert draft_in(bench.on(drafted)).token == ()


def test_a_verdict_of_the_old_grant_answers_the_round_but_tried_no_node() -> None:
    bench = Bench()
    bench.hosted(run=8)
    bench.on(SwitchAsked())
    bench.on(bench.draft())

    committed = find(bench.answer(bench.verdict(7, kept=0)), Committed)[0]

    assert not committed.was_tree
    assert bench.session.state is EdgeState.DRAFTING
