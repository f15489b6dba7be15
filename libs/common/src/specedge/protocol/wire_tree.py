"""A token tree as it stands in a draft: without its root, parents counted from the first node.

Knows nothing of bytes or states.
"""

from collections.abc import Sequence
from dataclasses import replace

from specedge.protocol.messages import Ahead, Draft
from specedge.tree.path import reroot
from specedge.tree.token_tree import IntArray, TokenTree


def to_wire(tree: TokenTree, max_nodes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``token`` and ``parent`` of a draft: the first ``max_nodes`` drafted nodes. Nodes come by
    falling value, so any prefix is a tree, and the best one of its size."""
    end = min(tree.num_drafted, max_nodes) + 1
    return tuple(tree.token[1:end].tolist()), tuple((tree.parent[1:end] - 1).tolist())


def from_wire(root: int, draft: Draft | Ahead) -> TokenTree:
    """The tree on ``root``, the last committed token after ``append``."""
    return TokenTree.from_parents(
        [root, *draft.token], [-1, *(parent + 1 for parent in draft.parent)]
    )


def levels_of(parents: Sequence[int]) -> list[int]:
    """Of each node, how many levels it is below the root; parents as in ``Draft``."""
    levels = [0] * (len(parents) + 1)  # the root's is the last, which is where -1 leads
    for node, parent in enumerate(parents):
        levels[node] = levels[parent] + 1
    del levels[-1]
    return levels


def continued(tree: TokenTree, committed: Sequence[int] | IntArray, max_nodes: int) -> TokenTree:
    """Of a tree sent ahead: the first ``max_nodes`` nodes below the node that newly ``committed``
    tokens (one or more) lead to; the root alone if they lead out of it. Both ends ask this of the
    same tree and must find the same."""
    return first_nodes(reroot(tree, committed)[1], max_nodes)


def first_nodes(tree: TokenTree, max_nodes: int) -> TokenTree:
    """The root and the first ``max_nodes`` drafted nodes, themselves a tree."""
    end = 1 + max_nodes
    if len(tree) <= end:
        return tree
    return replace(
        tree,
        token=tree.token[:end],
        parent=tree.parent[:end],
        depth=tree.depth[:end],
        logprob=tree.logprob[:end],
        value=tree.value[:end],
    )
