"""The edge's end of a session: a draft, its verdict, and the timer between them."""

import pytest

from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import AskDraft, Committed, Drafted, SetTimer, TimerDue
from specedge.protocol.messages import Progress
from specedge.protocol.token_log import TokenLog
from specedge.tree.token_tree import TokenTree
from tests.unit.edge_bench import LIMITS, OPENED, Bench, draft_in, find, timer_in


def test_a_draft_says_where_it_stands_and_twice_its_timer() -> None:
    bench = Bench()

    effects = bench.awaiting()

    draft = draft_in(effects)
    assert (draft.round, draft.try_, draft.base, draft.at) == (0, 0, 3, "v1")
    assert (draft.token, draft.parent) == ((7, 8, 9), (-1, 0, 0))
    assert draft.hash == TokenLog(bench.session.params, [0, 1, 2]).hash_at(3)
    assert timer_in(effects) == pytest.approx(0.3)
    assert draft.budget_ms == 600


def test_a_tree_is_cut_to_the_limit_of_nodes_and_stays_a_tree() -> None:
    bench = Bench()
    bench.opened(OPENED.model_copy(update={"limits": LIMITS.model_copy(update={"nodes": 2})}))

    draft = draft_in(bench.on(bench.draft()))

    assert (draft.token, draft.parent) == ((7, 8), (-1, 0))


def test_an_empty_tree_is_a_legal_draft() -> None:
    bench = Bench()
    bench.opened()

    draft = draft_in(bench.on(Drafted(TokenTree.root_only(2))))

    assert (draft.token, draft.run) == ((), 0)


def test_a_verdict_commits_path_and_bonus_and_asks_for_the_next_draft() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(7, 9, 4), 0.1)

    committed = find(effects, Committed)[0]
    assert committed.tokens == (7, 9, 4)
    assert committed.was_tree
    assert committed.round_trip_s == pytest.approx(0.1)
    assert find(effects, AskDraft) == [AskDraft(round=1, max_nodes=4, base=6)]
    assert bench.session.committed.tolist() == [0, 1, 2, 7, 9, 4]
    assert (bench.session.state, bench.session.verifier) == (EdgeState.DRAFTING, "v2")
    assert timer_in(effects) is None


def test_late_verdict_for_an_old_round_is_ignored() -> None:
    bench = Bench()
    bench.awaiting()
    verdict = bench.verdict(7, 4)
    bench.answer(verdict)

    assert bench.answer(verdict) == []
    assert bench.session.base == 5
    assert bench.session.counters["stale_verdict"] == 1


def test_a_verdict_for_a_round_not_yet_sent_is_ignored() -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.answer(bench.verdict(7, round_=1)) == []
    assert bench.session.counters["newer_verdict"] == 1


def test_the_first_verdict_counts_whichever_try_it_answers_and_is_timed_from_that_send() -> None:
    bench = Bench()
    bench.awaiting()
    bench.on(TimerDue(), 0.3)

    effects = bench.answer(bench.verdict(7), 0.1)

    assert find(effects, Committed)[0].round_trip_s == pytest.approx(0.4)


def test_the_timer_follows_the_usual_round_trip() -> None:
    bench = Bench()
    bench.awaiting()
    bench.answer(bench.verdict(7), 0.2)

    effects = bench.on(bench.draft())

    assert (timer_in(effects) or 0.0) - bench.now_s == pytest.approx(0.6)
    assert bench.session.round_trip_s == pytest.approx(0.2)


def test_an_early_timer_is_asked_for_again_and_a_stale_one_does_nothing() -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.on(TimerDue(), 0.1) == [SetTimer(0.3)]
    bench.answer(bench.verdict(7))
    assert bench.on(TimerDue(), 9.0) == []


def test_progress_starts_the_timer_anew() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(Progress(round=0, progress=(1, 3)), 0.25)

    assert timer_in(effects) == pytest.approx(0.55)
    assert bench.answer(Progress(round=1, progress=(1, 3))) == []
