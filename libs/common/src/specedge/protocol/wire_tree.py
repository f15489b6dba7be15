"""A token tree as it stands in a draft: without its root, parents counted from the first node.

Knows nothing of bytes or states.
"""

from specedge.protocol.messages import Draft
from specedge.tree.token_tree import TokenTree


def to_wire(tree: TokenTree, max_nodes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``token`` and ``parent`` of a draft: the first ``max_nodes`` drafted nodes. Nodes come by
    falling value, so any prefix is a tree, and the best one of its size."""
    end = min(tree.num_drafted, max_nodes) + 1
    return tuple(tree.token[1:end].tolist()), tuple((tree.parent[1:end] - 1).tolist())


def from_wire(root: int, draft: Draft) -> TokenTree:
    """The tree on ``root``, the last committed token after ``append``."""
    return TokenTree.from_parents(
        [root, *draft.token], [-1, *(parent + 1 for parent in draft.parent)]
    )
