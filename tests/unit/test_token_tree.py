"""Trees as values: what makes one, and verdicts on a small one by hand."""

import numpy as np
import pytest

from specedge.tree.path import reroot, walk
from specedge.tree.token_tree import TokenTree

#        0: 9
#      1: 5   2: 6
#     3: 7   4: 7
TREE = TokenTree.from_parents([9, 5, 6, 7, 7], [-1, 0, 0, 1, 2])


def choices(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def test_depths_follow_from_parents() -> None:
    assert TREE.depth.tolist() == [0, 1, 1, 2, 2]
    assert len(TREE) == 5
    assert TREE.num_drafted == 4


@pytest.mark.parametrize(
    ("token", "parent"),
    [
        ([], []),
        ([1], [0]),
        ([1, 2], [-1, 1]),
        ([1, 2], [-1, -1]),
        ([1, 2], [-1]),
        ([1, 2], [-1, 5]),
    ],
)
def test_what_is_no_tree_is_refused(token: list[int], parent: list[int]) -> None:
    with pytest.raises(ValueError, match=r"root|precede"):
        TokenTree.from_parents(token, parent)


def test_an_empty_draft_is_its_root() -> None:
    empty = TokenTree.root_only(4)

    assert empty.token.tolist() == [4]
    assert walk(empty, choices(8)).bonus == 8
    assert walk(empty, choices(8)).path.tolist() == []


def test_the_walk_follows_the_targets_choices_to_the_first_disagreement() -> None:
    walked = walk(TREE, choices(6, 0, 7, 0, 3))

    assert walked.path.tolist() == [2, 4]
    assert walked.bonus == 3


def test_nodes_that_were_not_tried_are_not_accepted() -> None:
    walked = walk(TREE, choices(6, 0, 7, 0, 3), num_tried=2)

    assert walked.path.tolist() == [2]
    assert walked.bonus == 7


def test_a_right_token_below_a_wrong_one_is_not_accepted() -> None:
    walked = walk(TREE, choices(8, 7, 7, 0, 0))

    assert walked.path.tolist() == []
    assert walked.bonus == 8


def test_a_verdict_commits_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="at least the bonus"):
        reroot(TREE, [])
