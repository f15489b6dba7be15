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


def lineage(parent: IntArray, nodes: IntArray) -> BoolArray:
    """Rows ``nodes`` ((m,) int32) of ``ancestor_mask(parent)``: (m, n) bool. Takes as many steps as
    the nodes are deep, however large the tree."""
    mask = np.zeros((len(nodes), len(parent)), dtype=np.bool_)
    rows, here = np.arange(len(nodes)), nodes
    while len(rows):
        mask[rows, here] = True
        above = parent[here]
        rows, here = rows[above >= 0], above[above >= 0]
    return mask
