"""Growing any tree with any proposals: what is expanded, and what is sent."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specedge.params import DraftPolicy
from specedge.tree.grow import GrowingTree, Proposals, add_children, plan_pass, select
from specedge.tree.token_tree import TokenTree
from tests.properties.tree_strategies import relaxed, trees

policies = st.builds(
    DraftPolicy,
    depth=st.integers(0, 5),
    budget=st.integers(0, 12),
    beams=st.integers(1, 5),
    branch=st.integers(1, 4),
)
STOP_IDS = frozenset({1})


def propose(random: np.random.Generator, num_nodes: int, branch: int) -> Proposals:
    """Anything a drafter may say: too few children, ties, certainties."""
    token = np.array([random.permutation(6)[:branch] for _ in range(num_nodes)], dtype=np.int32)
    missing = np.arange(token.shape[1]) >= random.integers(0, branch + 1, (num_nodes, 1))
    accept = random.choice([0.0, 0.1, 0.5, 1.0], token.shape).astype(np.float32)
    logprob = np.where(missing, -np.inf, -1.0).astype(np.float32)
    return Proposals(np.where(missing, -1, token).astype(np.int32), logprob, accept)


def grow(
    policy: DraftPolicy, seed: int, stop_ids: frozenset[int] = frozenset()
) -> list[GrowingTree]:
    """Every stage of a tree grown until no pass is worth while."""
    random = np.random.default_rng(seed)
    stages = [GrowingTree.start(TokenTree.root_only(0))]
    while len(nodes := plan_pass(stages[-1], policy, stop_ids)):
        children = propose(random, len(nodes), policy.branch)
        stages.append(add_children(stages[-1], nodes, children))
        assert len(stages) < 200, "growth must end"
    return stages


seeds = st.integers(0, 2**32)


@given(policies, seeds)
@relaxed
def test_a_tree_only_ever_grows_at_its_end(policy: DraftPolicy, seed: int) -> None:
    stages = grow(policy, seed)

    for before, after in itertools.pairwise(stages):
        n = len(before.tree)
        assert np.array_equal(after.tree.token[:n], before.tree.token)
        assert np.array_equal(after.tree.parent[:n], before.tree.parent)
        assert np.array_equal(after.tree.value[:n], before.tree.value)
        assert (after.expanded[:n] >= before.expanded).all()
        assert not after.expanded[n:].any()


@given(policies, seeds)
@relaxed
def test_growing_keeps_a_tree_a_tree(policy: DraftPolicy, seed: int) -> None:
    tree = grow(policy, seed)[-1].tree

    rebuilt = TokenTree.from_parents(tree.token, tree.parent)
    assert np.array_equal(tree.depth, rebuilt.depth)
    assert (tree.value[1:] <= tree.value[tree.parent[1:]]).all()
    assert tree.depth.max() <= policy.depth
    for array, dtype in [
        (tree.token, np.int32),
        (tree.parent, np.int32),
        (tree.depth, np.int32),
        (tree.logprob, np.float32),
        (tree.value, np.float32),
    ]:
        assert array.dtype == dtype


@given(policies, seeds)
@relaxed
def test_nothing_below_the_end_of_the_text_is_drafted(policy: DraftPolicy, seed: int) -> None:
    tree = grow(policy, seed, STOP_IDS)[-1].tree

    parents = tree.parent[1:]
    assert not np.isin(tree.token[parents[parents > 0]], list(STOP_IDS)).any()


@given(policies, seeds)
@relaxed
def test_a_pass_takes_the_best_nodes_that_may_still_have_children(
    policy: DraftPolicy, seed: int
) -> None:
    for stage in grow(policy, seed):
        tree = stage.tree
        sent = set(select(tree, policy.budget, policy.depth).ids.tolist())
        if len(sent) - 1 < policy.budget:
            worth_more_than = -1.0
        else:
            worth_more_than = min((tree.value[i] for i in sent if i), default=np.inf)
        able = [
            i
            for i in range(len(tree))
            if not stage.expanded[i]
            and tree.depth[i] < policy.depth
            and tree.value[i] > max(0.0, worth_more_than)
        ]
        able.sort(key=lambda i: (-tree.value[i], i))

        assert plan_pass(stage, policy).tolist() == able[: policy.beams]


@given(policies, seeds)
@relaxed
def test_no_further_expansion_could_change_what_is_sent(policy: DraftPolicy, seed: int) -> None:
    done = grow(policy, seed)[-1]
    sent = select(done.tree, policy.budget, policy.depth).ids

    unexpanded = np.flatnonzero(~done.expanded & (done.tree.depth < policy.depth))
    certain = Proposals(
        np.full((len(unexpanded), 1), 5, dtype=np.int32),
        np.zeros((len(unexpanded), 1), dtype=np.float32),
        np.ones((len(unexpanded), 1), dtype=np.float32),
    )
    more = add_children(done, unexpanded.astype(np.int32), certain).tree

    # Worthless nodes may still fill up a draft that is not full.
    worthy = more.value > 0
    again = select(more, policy.budget, policy.depth).ids
    assert again[worthy[again]].tolist() == sent[done.tree.value[sent] > 0].tolist()


@given(trees(), st.integers(0, 30), st.none() | st.integers(0, 6))
@relaxed
def test_a_selection_is_the_best_of_the_tree_and_no_more_than_the_budget(
    tree: TokenTree, budget: int, max_depth: int | None
) -> None:
    selection = select(tree, budget, max_depth)

    allowed = [i for i in range(1, len(tree)) if max_depth is None or tree.depth[i] <= max_depth]
    best = sorted((float(tree.value[i]) for i in allowed), reverse=True)[:budget]
    assert selection.tree.value[1:].tolist() == best
    assert selection.ids[0] == 0
    assert len(set(selection.ids.tolist())) == len(selection.ids)


@given(trees(), st.integers(0, 30), st.data())
@relaxed
def test_any_prefix_of_a_selection_is_a_tree(
    tree: TokenTree, budget: int, data: st.DataObject
) -> None:
    selection = select(tree, budget)
    kept = data.draw(st.integers(1, len(selection.tree)))

    prefix = TokenTree.from_parents(selection.tree.token[:kept], selection.tree.parent[:kept])

    assert np.array_equal(prefix.depth, selection.tree.depth[:kept])
    assert np.array_equal(prefix.token, tree.token[selection.ids[:kept]])
    in_working_tree = selection.ids[selection.tree.parent[1:kept]]
    assert np.array_equal(in_working_tree, tree.parent[selection.ids[1:kept]])


def test_a_node_is_not_expanded_twice() -> None:
    random = np.random.default_rng(0)
    root = np.array([0], dtype=np.int32)
    growing = GrowingTree.start(TokenTree.root_only(0))

    once = add_children(growing, root, propose(random, 1, 2))

    with pytest.raises(ValueError, match="at most once"):
        add_children(once, root, propose(random, 1, 2))


@given(policies, seeds, st.floats(2**-6, 1.0, width=32))
@relaxed
def test_nothing_below_the_floor_is_expanded_or_sent(
    policy: DraftPolicy, seed: int, floor: float
) -> None:
    policy = replace(policy, floor=floor)

    growing = grow(policy, seed)[-1]

    sent = select(growing.tree, policy.budget, policy.depth, policy.floor)
    assert (sent.tree.value[1:] >= np.float32(floor)).all()
    assert (growing.tree.value[growing.expanded] >= np.float32(floor)).all()
