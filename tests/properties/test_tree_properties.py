"""Masks, walks and re-rootings of any tree."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from specedge.tree.calibration import sibling_rank
from specedge.tree.mask import ancestor_mask
from specedge.tree.path import find_path, reroot, subtree, walk
from specedge.tree.token_tree import IntArray, TokenTree
from tests.properties.tree_strategies import (
    VOCAB,
    path_to,
    relaxed,
    spelling,
    trees,
    trees_with_choices,
)


@given(trees(distinct_siblings=False))
@relaxed
def test_the_mask_is_the_transitive_closure_of_the_parents(tree: TokenTree) -> None:
    n = len(tree)
    reach = np.eye(n, dtype=np.int64)
    for node in range(1, n):
        reach[node, tree.parent[node]] = 1
    for _ in range(n):
        reach = np.minimum(reach @ reach, 1)

    mask = ancestor_mask(tree.parent)

    assert np.array_equal(mask, reach.astype(bool))
    assert np.array_equal(mask.sum(axis=1), tree.depth + 1)


@given(trees_with_choices(), st.integers(0, 30))
@relaxed
def test_a_walk_is_the_longest_path_of_the_targets_own_choices(
    drawn: tuple[TokenTree, IntArray], num_tried: int
) -> None:
    tree, choice = drawn
    tried = min(len(tree), num_tried + 1)

    def is_accepted(node: int) -> bool:
        path = [0, *path_to(tree, node)]
        return all(tree.token[b] == choice[a] for a, b in itertools.pairwise(path))

    walked = walk(tree, choice, num_tried)

    longest = max((n for n in range(tried) if is_accepted(n)), key=lambda n: tree.depth[n])
    assert walked.path.tolist() == path_to(tree, longest)
    assert walked.bonus == choice[longest]


@given(trees(distinct_siblings=False))
@relaxed
def test_where_siblings_repeat_a_token_the_first_counts(tree: TokenTree) -> None:
    choice = np.full(len(tree), 3, dtype=np.int32)

    walked = walk(tree, choice)

    above = 0
    for node in walked.path:
        twins = (tree.parent == above) & (tree.token == 3)
        twins[0] = False
        assert node == np.flatnonzero(twins)[0]
        above = node


@given(trees(), st.data())
@relaxed
def test_a_path_is_found_by_its_spelling_as_far_as_the_tree_goes(
    tree: TokenTree, data: st.DataObject
) -> None:
    node = data.draw(st.integers(0, len(tree) - 1))
    spelled = spelling(tree, node)

    assert find_path(tree, spelled).tolist() == path_to(tree, node)
    assert find_path(tree, [*spelled, VOCAB]).tolist() == path_to(tree, node)


@given(trees(), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5))
@relaxed
def test_rerooting_keeps_exactly_what_hangs_below_the_committed_tokens(
    tree: TokenTree, committed: list[int]
) -> None:
    below = {
        spelled[len(committed) :]
        for node in range(len(tree))
        if (spelled := spelling(tree, node))[: len(committed)] == tuple(committed)
    }

    rerooting, new = reroot(tree, committed)

    assert {spelling(new, node) for node in range(len(new))} == (below or {()})
    assert new.token[0] == committed[-1]
    assert rerooting.is_hit == bool(below)
    assert rerooting.committed.tolist() == committed


@given(trees(), st.data())
@relaxed
def test_rerooting_maps_every_kept_node_onto_its_new_id(
    tree: TokenTree, data: st.DataObject
) -> None:
    root = data.draw(st.integers(1, len(tree) - 1)) if len(tree) > 1 else None
    committed = spelling(tree, root) if root else (0,)

    rerooting, new = reroot(tree, committed)

    spelled = [int(tree.token[node]) for node in rerooting.path]
    if not rerooting.is_hit:
        assert spelled + rerooting.tail.tolist() == list(committed)
        return
    assert len(rerooting.tail) == 0
    assert rerooting.path.tolist() == path_to(tree, int(rerooting.kept[0]))[:-1]
    assert np.array_equal(rerooting.kept, subtree(tree, int(rerooting.kept[0])))
    assert np.array_equal(new.token, tree.token[rerooting.kept])
    assert np.array_equal(rerooting.kept[new.parent[1:]], tree.parent[rerooting.kept[1:]])
    assert np.array_equal(new.logprob[1:], tree.logprob[rerooting.kept[1:]])


@given(trees(), st.data())
@relaxed
def test_values_after_rerooting_are_relative_and_still_fall(
    tree: TokenTree, data: st.DataObject
) -> None:
    root = data.draw(st.integers(0, len(tree) - 1))
    committed = spelling(tree, root) or (0,)

    rerooting, new = reroot(tree, committed)

    assert new.value[0] == 1.0
    assert (new.value[1:] <= new.value[new.parent[1:]]).all()
    if rerooting.is_hit:
        relative = tree.value[rerooting.kept] / tree.value[rerooting.kept[0]]
        np.testing.assert_allclose(new.value, relative, rtol=1e-6)


@given(trees())
@relaxed
def test_a_rank_counts_the_older_siblings(tree: TokenTree) -> None:
    rank = sibling_rank(tree.parent)

    for node in range(1, len(tree)):
        assert rank[node] == (tree.parent[1:node] == tree.parent[node]).sum()
