"""From the target's choices to the verdict, and from a verdict to the next round's tree.

An accepted node is one whose token is the target's choice at its parent, and whose parent is
accepted (the root always is). Source: sampled-token matching as in SpecExec (arXiv 2406.02532);
that it is exact for any draft is shown in docs/architecture.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specedge.tree.token_tree import IntArray, TokenTree


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The accepted path: ``path`` (d,) int32 node ids from the root's child down, ascending, and
    the target's choice at its end."""

    path: IntArray
    bonus: int


@dataclass(frozen=True, slots=True, eq=False)
class Rerooting:
    """How a round's tree carries over to the next root.

    committed (c,) int32, c >= 1: all newly committed tokens, the new root last
    path   (d,) int32  old ids of accepted nodes, root's child first; they spell committed[:d]
    kept   (m,) int32  old ids of the nodes that live on, in the order of their new ids. On a hit
                       kept[0] is the new root (it hangs off the path's end). Empty on a miss

    A session that never saw a node's token (a child of its last pass) finds it in ``committed``.
    """

    committed: IntArray
    path: IntArray
    kept: IntArray

    @property
    def tail(self) -> IntArray:
        """Committed tokens after the path that the old tree does not hold, in order; the last of
        them is the new root. Empty on a hit."""
        return self.committed[:0] if self.is_hit else self.committed[len(self.path) :]

    @property
    def is_hit(self) -> bool:
        """Whether the new root was already in the tree."""
        return len(self.kept) > 0


def walk(tree: TokenTree, choice: IntArray, num_tried: int | None = None) -> Walk:
    """Follow the target's choices ((n,) int32, one per node) from the root down.

    Only the first ``num_tried`` drafted nodes count (all by default). Where siblings repeat a
    token, the first counts.
    """
    limit = len(tree) if num_tried is None else min(len(tree), num_tried + 1)
    parent, token = tree.parent[:limit].tolist(), tree.token[:limit].tolist()
    path: list[int] = []
    node, chosen = 0, int(choice[0])
    # One pass is enough, since parents precede their children.
    for child in range(1, limit):
        if parent[child] == node and token[child] == chosen:
            path.append(child)
            node, chosen = child, int(choice[child])
    return Walk(np.array(path, dtype=np.int32), chosen)


def find_path(tree: TokenTree, tokens: Sequence[int] | IntArray) -> IntArray:
    """Node ids that spell ``tokens`` from the root down, as far as the tree goes: (d,) int32.

    Where siblings repeat a token, the first counts.
    """
    path: list[int] = []
    node = 0
    for token in tokens:
        child = _child(tree, node, int(token), len(tree))
        if child is None:
            break
        path.append(child)
        node = child
    return np.asarray(path, dtype=np.int32)


def find_nodes(tree: TokenTree, part: TokenTree) -> IntArray:
    """Ids in ``tree`` of the nodes of ``part``, which is on the same root: (m,) int32, as many of
    its first nodes as ``tree`` has. Where siblings repeat a token, the first counts."""
    child: dict[tuple[int, int], int] = {}
    edges = zip(tree.parent.tolist(), tree.token.tolist(), strict=True)
    for node, edge in enumerate(edges):
        child.setdefault(edge, node)
    ids = [0]
    for parent, token in zip(part.parent[1:].tolist(), part.token[1:].tolist(), strict=True):
        node = child.get((ids[parent], token), 0)
        if node == 0:
            break
        ids.append(node)
    return np.array(ids, dtype=np.int32)


def reroot(tree: TokenTree, committed: Sequence[int] | IntArray) -> tuple[Rerooting, TokenTree]:
    """Carry ``tree`` over newly ``committed`` tokens (path and bonus, at least one, the last is the
    new root): the rerooting, and the tree that is left on the new root.

    Values in the new tree are relative to the new root: divided by its own.
    """
    if len(committed) == 0:
        raise ValueError("a verdict commits at least the bonus token")
    tokens = np.asarray(committed, dtype=np.int32)
    found = find_path(tree, committed)
    if len(found) < len(committed):
        rerooting = Rerooting(tokens, found, np.empty(0, dtype=np.int32))
        return rerooting, TokenTree.root_only(int(tokens[-1]))
    kept = subtree(tree, int(found[-1]))
    return Rerooting(tokens, found[:-1], kept), _take_subtree(tree, kept)


def subtree(tree: TokenTree, node: int) -> IntArray:
    """Ids of ``node`` and everything below it, ascending: (m,) int32."""
    inside = np.zeros(len(tree), dtype=np.bool_)
    inside[node] = True
    for depth in range(int(tree.depth[node]) + 1, int(tree.depth.max()) + 1):
        level = np.flatnonzero(tree.depth == depth)
        inside[level] = inside[tree.parent[level]]
    return np.flatnonzero(inside).astype(np.int32)


def _child(tree: TokenTree, node: int, token: int, limit: int) -> int | None:
    """The first child of ``node`` with ``token`` among the nodes below ``limit``."""
    is_child = (tree.parent[:limit] == node) & (tree.token[:limit] == token)
    first = int(is_child.argmax())
    return first if is_child[first] else None


def _take_subtree(tree: TokenTree, kept: IntArray) -> TokenTree:
    new_id = np.zeros(len(tree), dtype=np.int32)
    new_id[kept] = np.arange(len(kept), dtype=np.int32)
    parent = new_id[tree.parent[kept]]  # a kept node's parent is kept, but for the new root's
    parent[0] = -1
    logprob = tree.logprob[kept]
    logprob[0] = 0.0
    # Division keeps the order of values, so they still fall along every path.
    root_value = max(float(tree.value[kept[0]]), float(np.finfo(np.float32).tiny))
    value = np.minimum(tree.value[kept] / np.float32(root_value), np.float32(1.0))
    value[0] = 1.0
    depth = tree.depth[kept] - tree.depth[kept[0]]
    return TokenTree(tree.token[kept], parent, depth, logprob, value)
