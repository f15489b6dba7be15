"""Which nodes are worth a pass while a draft is out, and what a tree that outlived its verdict
spares the next round."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.emulated import EmulatedDrafter, EmulatedText, emulated_continuation
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.tree.ahead import (
    HAD,
    AheadPolicy,
    OfferPolicy,
    levels_beyond,
    levels_there,
    plan_ahead,
    select_ahead,
)
from specedge.tree.grow import GrowingTree
from specedge.tree.path import find_nodes, reroot, subtree
from specedge.tree.token_tree import TokenTree
from tests.properties.tree_strategies import relaxed, trees

TEXT = EmulatedText(vocab_size=500)
PROMPT = [11, 12, 13]
POLICY = DraftPolicy(depth=3, budget=6, beams=4, branch=3)
AHEAD = AheadPolicy(levels=3, beams=4, branch=3)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def growing(
    parent: list[int], value: list[float], expanded: list[int], token: list[int] | None = None
) -> GrowingTree:
    tokens = token or list(range(100, 100 + len(parent)))
    values = np.array(value, dtype=np.float32)
    tree = TokenTree.from_parents(tokens, parent, np.zeros(len(parent), np.float32), values)
    is_expanded = np.zeros(len(parent), dtype=np.bool_)
    is_expanded[expanded] = True
    return GrowingTree(tree, is_expanded)


# 0 ─┬─ 1 ── 3        sent: 0, 1, 3      outcomes: 2 (below the root), 4 (below 1)
#    └─ 2    4 ── 5   5 hangs below 4
BRANCHED = growing([-1, 0, 0, 1, 1, 4], [1.0, 0.6, 0.3, 0.4, 0.15, 0.1], [0, 1, 4])
SENT = ids(0, 1, 3)


def test_outcomes_lie_one_level_beyond_what_was_sent() -> None:
    assert levels_beyond(BRANCHED.tree, SENT).tolist() == [0, 0, 1, 0, 1, 2]


def test_the_likeliest_nodes_come_first_whether_sent_leaves_or_outcomes() -> None:
    assert plan_ahead(BRANCHED, SENT, AHEAD).tolist() == [3, 2, 5]


def test_nothing_is_planned_beyond_what_the_next_round_can_send() -> None:
    assert plan_ahead(BRANCHED, SENT, AheadPolicy(levels=1)).tolist() == [3, 2]
    assert plan_ahead(BRANCHED, SENT, AheadPolicy(levels=0)).tolist() == []


def test_a_full_working_tree_grows_no_more() -> None:
    assert plan_ahead(BRANCHED, SENT, AheadPolicy(max_nodes=7)).tolist() != []
    assert plan_ahead(BRANCHED, SENT, AheadPolicy(max_nodes=6)).tolist() == []


def test_unlikely_nodes_ends_of_text_and_the_last_tokens_are_left_alone() -> None:
    assert plan_ahead(BRANCHED, SENT, AheadPolicy(floor=0.2)).tolist() == [3, 2]
    assert plan_ahead(BRANCHED, SENT, AHEAD, stop_ids=frozenset({103})).tolist() == [2, 5]
    assert plan_ahead(BRANCHED, SENT, AHEAD, max_depth=2).tolist() == [2]


def test_a_level_is_there_when_most_of_its_probability_is_expanded() -> None:
    parent, value = [-1, 0, 0, 1, 2], [1.0, 0.6, 0.4, 0.3, 0.2]

    assert levels_there(growing(parent, value, [])) == 0
    assert levels_there(growing(parent, value, [0, 2])) == 1
    assert levels_there(growing(parent, value, [0, 1])) == 2
    assert levels_there(growing(parent, value, [0, 1, 2, 3])) == 3


def test_an_end_of_text_is_no_missing_level() -> None:
    tree = growing([-1, 0, 0], [1.0, 0.9, 0.1], [0, 2], token=[7, 2, 9])

    assert levels_there(tree) == 1
    assert levels_there(tree, frozenset({2})) == 2


# ---------------------------------------------------------------- what is sent of it

# 0 ─┬─ 1 ── 2 ─┬─ 4 ── 6     sent: 0, 1      outcomes: 2 (below 1), 3 (below the root)
#    └─ 3       └─ 5     7    7 hangs below 3
DEEP = growing(
    [-1, 0, 1, 0, 2, 2, 4, 3], [1.0, 0.7, 0.5, 0.2, 0.3, 0.02, 0.2, 0.04], [0, 1, 2, 3, 4]
)


def offered(**policy: object) -> list[int]:
    """Their tokens, counted from 100, in the order in which they are sent."""
    tree = select_ahead(DEEP, ids(0, 1), OfferPolicy(**policy))  # type: ignore[arg-type]
    return (tree.token[1:] - 100).tolist()


def test_an_outcome_is_sent_with_what_leads_to_it_and_what_is_likely_below_it() -> None:
    assert offered(worth=0.5, floor=0.05) == [1, 2, 4, 6]
    assert offered(worth=0.5, floor=0.03) == [1, 2, 4, 6, 5]


def test_outcomes_with_too_little_below_them_are_left_out() -> None:
    assert offered(worth=0.1, floor=0.05) == [1, 2, 4, 3, 6, 7]
    assert offered(worth=1.5, floor=0.05) == []


def test_below_each_outcome_as_many_nodes_are_sent_as_are_worth_their_price() -> None:
    """Shares below 2 are 0.6, 0.4 and 0.04, below 3 there is one of 0.2."""
    policy = {"worth": 0.1, "floor": 0.0}
    assert offered(**policy, price=0.1 * np.arange(5.0)) == [1, 2, 4, 3, 6, 7]
    assert offered(**policy, price=0.3 * np.arange(5.0)) == [1, 2, 4, 6]
    assert offered(**policy, price=0.5 * np.arange(5.0)) == [1, 2, 4]
    assert offered(**policy, price=0.7 * np.arange(5.0)) == []


def test_rows_that_are_free_up_to_a_knee_are_filled_up_to_it() -> None:
    knee = np.array([0.0, 0.0, 0.0, 5.0])
    assert offered(worth=0.1, floor=0.0, price=knee) == [1, 2, 4, 3, 6, 7]
    assert offered(worth=0.1, floor=0.0, price=knee[:2]) == [1, 2, 4, 3, 7]
    assert offered(worth=0.1, floor=0.0, price=knee[:1]) == []


@given(trees(), st.data())
@relaxed
def test_no_other_number_of_nodes_below_an_outcome_is_worth_more(
    tree: TokenTree, data: st.DataObject
) -> None:
    """The root alone was sent, so every child of it is an outcome."""
    rows = data.draw(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=6))
    price = np.concatenate([[0.0], np.cumsum(rows)])
    growing_ = GrowingTree.start(tree)

    sent = select_ahead(growing_, ids(0), OfferPolicy(99, 0.0, 1e-9, price=price))

    chosen = set(find_nodes(tree, sent).tolist())
    for outcome in np.flatnonzero(tree.parent == 0):
        below = [node for node in subtree(tree, int(outcome)) if node != outcome]
        share = sorted((tree.value[below] / tree.value[outcome]).tolist(), reverse=True)
        worth = np.concatenate([[0.0], np.cumsum(share)[: len(rows)]])
        worth -= price[: len(worth)]
        num_sent = sum(node in chosen for node in below)
        assert worth[num_sent] == pytest.approx(worth.max(), abs=1e-5)


# 0 (sent) ── 1 ─┬─ 2 ── 4     outcome: 1, whose levels go on with 0.8 and 0.5
#                └─ 3
def lacks(open_: list[int], levels: int = 3) -> float:
    """What a draft below outcome 1 lacks while the nodes ``open_`` are not expanded, to within
    0.001: the least that lets it be sent."""
    expanded = [node for node in range(5) if node not in open_]
    tree = growing([-1, 0, 1, 1, 2], [1.0, 0.5, 0.3, 0.1, 0.15], expanded)
    for thousandths in range(2000):
        policy = OfferPolicy(worth=0.1, lacking=thousandths / 1000, levels=levels)
        if select_ahead(tree, ids(0), policy).num_drafted:
            return thousandths / 1000
    raise AssertionError("never sent")


def test_a_draft_lacks_what_its_open_nodes_would_go_on_to() -> None:
    """Nodes 1 and 2 are expanded, 1.6 in all, and their children sum up to 1.1: each level goes on
    with 11/16. Node 3 is open, with a share of 0.2 and two levels left; 4, with 0.3, has one."""
    goes_on = 1.1 / 1.6
    of_3, of_4 = 0.2 * (goes_on + goes_on**2), 0.3 * goes_on
    assert lacks([3, 4]) == pytest.approx(HAD * (of_3 + of_4), abs=2e-3)


def test_where_no_level_is_left_nothing_lacks() -> None:
    assert lacks([4], levels=2) == lacks([]) == 0.0
    assert lacks([3, 4], levels=1) == 0.0


def test_a_draft_that_lacks_too_much_is_left_to_be_waited_for() -> None:
    few, all_ = lacks([3]), lacks([3, 4])
    assert 0.0 < few < all_


def test_what_is_sent_is_a_tree_whatever_its_bound() -> None:
    for most in range(8):
        tree = select_ahead(DEEP, ids(0, 1), OfferPolicy(most, 0.0, 0.0))
        assert tree.num_drafted <= most
        assert (tree.parent[1:] < np.arange(1, len(tree))).all()
        assert (np.diff(tree.value) <= 0).all()


def test_a_part_of_a_tree_is_found_in_it_as_far_as_it_is_there() -> None:
    part = select_ahead(DEEP, ids(0, 1), OfferPolicy(worth=0.5))
    assert find_nodes(DEEP.tree, part).tolist() == [0, 1, 2, 4, 6]

    other = TokenTree.from_parents([100, 101, 7, 102], [-1, 0, 0, 1])
    assert find_nodes(DEEP.tree, other).tolist() == [0, 1]


# ---------------------------------------------------------------- with a drafter


def started(agreement: float = 1.0, max_tokens: int = 1000) -> TreeDrafter:
    drafter = TreeDrafter(EmulatedDrafter(TEXT, agreement=(agreement,), branch=3))
    drafter.start(ids(*PROMPT), SamplingParams(), StopRule(max_tokens=max_tokens))
    return drafter


def truth(count: int) -> list[int]:
    return emulated_continuation(PROMPT, StopRule(max_tokens=count), text=TEXT)


def run_ahead(drafter: TreeDrafter, policy: AheadPolicy = AHEAD) -> int:
    """As many passes as it takes."""
    passes = 0
    while drafter.step_ahead(policy):
        passes += 1
    return passes


def test_passes_ahead_change_nothing_of_what_was_sent() -> None:
    drafter, plain = started(0.7), started(0.7)
    sent = drafter.draft(POLICY)

    assert run_ahead(drafter) > 3

    drafter.on_verdict(sent.token[1:2].tolist(), 499, 1)
    plain.draft(POLICY)
    plain.on_verdict(sent.token[1:2].tolist(), 499, 1)
    again, wanted = drafter.draft(POLICY), plain.draft(POLICY)
    assert np.array_equal(again.token, wanted.token)
    assert np.allclose(again.value, wanted.value)


def test_after_a_full_head_start_the_next_draft_takes_no_pass() -> None:
    drafter = started()
    accepted = len(truth(4)) - 1
    drafter.draft(POLICY)
    run_ahead(drafter)
    passes = drafter.counts.passes

    drafter.on_verdict(truth(4)[:accepted], truth(4)[-1])
    tree = drafter.draft(POLICY)

    assert drafter.counts.passes == passes
    assert drafter.counts.passes_saved == POLICY.depth
    assert tree.token[tree.depth == 3].tolist().count(truth(7)[-1]) == 1


def test_a_head_start_of_some_levels_spares_as_many_passes() -> None:
    drafter = started()
    drafter.draft(POLICY)
    drafter.step_ahead(AHEAD)
    drafter.step_ahead(AHEAD)
    passes = drafter.counts.passes

    drafter.on_verdict(truth(3), truth(4)[-1])
    drafter.draft(POLICY)

    assert drafter.counts.passes_saved == 1
    assert drafter.counts.passes - passes == POLICY.depth - 1


def test_nothing_is_drafted_ahead_beyond_the_last_token() -> None:
    drafter = started(max_tokens=5)
    drafter.draft(POLICY)

    run_ahead(drafter)

    assert int(drafter.growing.tree.depth.max()) == 4  # the fifth is the bonus of some verdict


def test_counts_tell_passes_on_the_way_from_those_ahead() -> None:
    drafter = started()
    drafter.draft(POLICY)
    ahead = run_ahead(drafter)

    assert (drafter.counts.passes, drafter.counts.passes_ahead) == (3, ahead)
    assert len(drafter.take_records()) == 3 + ahead
    assert drafter.take_records() == ()
    assert (drafter.counts + drafter.counts).passes_ahead == 2 * ahead


def test_a_round_that_was_sent_ahead_is_judged_and_drafted_beyond_like_any_other() -> None:
    drafter = TreeDrafter(EmulatedDrafter(TEXT, agreement=(1.0,)))
    drafter.start(ids(*PROMPT), SamplingParams())
    first = drafter.draft(DraftPolicy(depth=2, budget=2, beams=4, branch=3))
    while drafter.step_ahead(AHEAD):
        pass
    offer = drafter.offer(OfferPolicy())
    truth = emulated_continuation(PROMPT, StopRule(max_tokens=12), text=TEXT)
    drafter.on_verdict(truth[:2], truth[2])
    next_tree = reroot(offer, truth[:3])[1]
    assert first.num_drafted == 2
    assert next_tree.num_drafted > 0

    drafter.follow(next_tree)
    before = drafter.counts
    while drafter.step_ahead(AHEAD):
        pass
    depth = int(next_tree.depth.max())
    drafter.on_verdict(truth[3 : 3 + depth], truth[3 + depth])

    after = drafter.counts
    assert after.passes_ahead > before.passes_ahead
    assert (after.verdicts, after.hits) == (2, 2)
    assert drafter.draft(POLICY).token[1] == truth[4 + depth]
