"""What emulated engines hold their callers to: the ports' contract, checked. Imports no torch."""

import numpy as np

from specedge.errors import ProtocolViolation
from specedge.tree.token_tree import TokenTree


def check(holds: bool | np.bool_, message: str) -> None:
    """Raise ProtocolViolation unless it ``holds``."""
    if not holds:
        raise ProtocolViolation(message)


def check_tree(tree: TokenTree) -> None:
    """Raise ProtocolViolation for nodes that are not in a tree's order."""
    parent, nodes = tree.parent, np.arange(len(tree))
    check(parent[0] == -1, "the root comes first")
    check(bool(((parent[1:] >= 0) & (parent[1:] < nodes[1:])).all()), "parents come first")
    check(
        tree.depth[0] == 0 and np.array_equal(tree.depth[1:], tree.depth[parent[1:]] + 1),
        "depths do not fit the parents",
    )
