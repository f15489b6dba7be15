"""The edge's end of a session: drafts sent ahead of a verdict."""

import pytest

from specedge.protocol import codec
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import (
    AskDraft,
    Committed,
    DraftedAhead,
    EdgeEffect,
    SendUp,
    TimerDue,
)
from specedge.protocol.messages import Ahead
from specedge.protocol.opening import Opened
from specedge.protocol.subjects import Up
from specedge.protocol.token_log import TokenLog
from specedge.tree.token_tree import TokenTree
from tests.unit.edge_bench import LIMITS, OPENED, Bench, draft_in, find, sent

TAKES_AHEAD = OPENED.model_copy(update={"limits": LIMITS.model_copy(update={"ahead": 5})})


class AheadBench(Bench):
    """A round is out, at a verifier that takes drafts sent ahead."""

    def __init__(self, opened: Opened = TAKES_AHEAD) -> None:
        super().__init__()
        self.opened(opened)
        self.on(self.draft())

    def send_ahead(self, base: int | None = None) -> list[EdgeEffect]:
        """Below 7, which was sent: 30 with 31, 32, 33 and 34 in a row below it."""
        token, parent = [int(self.session.committed[-1]), 7, 30, 31, 32, 33, 34], range(-1, 6)
        tree = TokenTree.from_parents(token, list(parent))
        return self.on(DraftedAhead(tree, nodes=3, base=base or self.session.base))


def test_what_was_drafted_beyond_a_round_is_sent_once_and_no_more_of_it_than_is_taken() -> None:
    bench = AheadBench()

    (payload,) = sent(bench.send_ahead(), Up.AHEAD)

    ahead, log = codec.decode(Ahead, payload), TokenLog(bench.session.params, [0, 1, 2])
    assert (ahead.round, ahead.base, ahead.hash) == (0, 3, log.hash_at(3))
    assert (ahead.token, ahead.parent, ahead.nodes) == ((7, 30, 31, 32, 33), (-1, 0, 1, 2, 3), 3)
    assert bench.send_ahead() == []


def test_nothing_is_sent_ahead_where_it_is_not_taken_or_of_another_round() -> None:
    assert AheadBench(OPENED).send_ahead() == []
    assert AheadBench().send_ahead(base=2) == []
    answered = AheadBench()
    answered.answer(answered.verdict(7, 30))
    assert answered.send_ahead() == []


def test_a_verdict_that_says_so_is_followed_by_a_round_that_is_out_already() -> None:
    bench = AheadBench()
    bench.send_ahead()

    effects = bench.answer(bench.verdict(7, 30, ahead=2), after_s=0.1)

    (committed,) = find(effects, Committed)
    assert committed.next_tree.token.tolist() == [30, 31, 32]
    assert find(effects, AskDraft) == find(effects, SendUp) == []
    assert (bench.session.state, bench.session.round) == (EdgeState.AWAITING, 1)
    (committed,) = find(bench.answer(bench.verdict(31, 9, kept=2), after_s=0.1), Committed)
    assert committed.was_tree
    assert committed.round_trip_s is None
    assert bench.session.state is EdgeState.DRAFTING


def test_a_round_that_was_never_sent_is_said_as_a_draft_when_nothing_is_heard_of_it() -> None:
    bench = AheadBench()
    bench.send_ahead()
    bench.answer(bench.verdict(7, 30, ahead=2), after_s=0.1)

    again = draft_in(bench.on(TimerDue(), after_s=5.0))

    assert (again.round, again.try_, again.base) == (1, 1, 5)
    assert (again.token, again.parent) == ((31, 32), (-1, 0))
    (committed,) = find(bench.answer(bench.verdict(31, 9, try_=1), after_s=0.1), Committed)
    assert committed.round_trip_s == pytest.approx(0.1)


@pytest.mark.parametrize("count", [4, 5])
def test_a_verdict_that_speaks_of_more_than_was_sent_ahead_asks_for_a_draft(count: int) -> None:
    bench = AheadBench()
    bench.send_ahead()

    effects = bench.answer(bench.verdict(7, 30, ahead=count))

    assert find(effects, AskDraft)
    assert bench.session.state is EdgeState.DRAFTING


def test_the_answer_to_a_round_that_the_verifier_went_on_with_unasked_counts_all_the_same() -> None:
    bench = AheadBench()
    bench.answer(bench.verdict(7, 30, ahead=2))
    assert bench.session.state is EdgeState.DRAFTING

    effects = bench.answer(bench.verdict(31, 9, kept=2))

    (committed,) = find(effects, Committed)
    assert committed.tokens == (31, 9)
    assert bench.session.round == 2
