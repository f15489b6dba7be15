"""From parents to who may attend to whom inside a tree."""

import numpy as np

from specedge.tree.token_tree import BoolArray, IntArray


def ancestor_mask(parent: IntArray) -> BoolArray:
    """Ancestors of every node: (n, n) bool, True at [i, j] iff j is i or lies above it.

    ``parent`` (n,) int32 is that of a TokenTree: the root first, each parent before its children.
    Row i is what node i attends to among the nodes; all of them also attend to the context.
    """
    n = len(parent)
    mask = np.eye(n, dtype=np.bool_)
    for node in range(1, n):
        mask[node] |= mask[parent[node]]
    return mask
