"""Which nodes to expand next, and which of the grown tree to send. Pure functions on values.

The growth of SpecExec (arXiv 2406.02532, §3): a node's value is the probability that it is
accepted, which never rises along a path; each pass expands the best unexpanded nodes, and the
best ``budget`` nodes over all are sent. Knows neither drafters nor how values are estimated.

A growing tree only ever grows at its end: a node keeps its id until the next re-rooting.
"""

from dataclasses import dataclass, replace

import numpy as np

from specedge.params import DraftPolicy
from specedge.tree.token_tree import BoolArray, FloatArray, IntArray, TokenTree

EMPTY = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Children that a pass proposes for m nodes, with what each is held to be worth.

    token    (m, k) int32    -1 where there is none
    logprob  (m, k) float32  the drafter's score, in nats
    accept   (m, k) float32  probability of acceptance given an accepted parent, in [0, 1]
    """

    token: IntArray
    logprob: FloatArray
    accept: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class GrowingTree:
    """A working tree: all nodes drafted so far, sent or not.

    expanded (n,) bool: the node's children, if it has any, are in the tree.
    """

    tree: TokenTree
    expanded: BoolArray

    @classmethod
    def start(cls, tree: TokenTree) -> "GrowingTree":
        """A working tree in which nothing was expanded yet."""
        return cls(tree, np.zeros(len(tree), dtype=np.bool_))


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The part of a working tree that is sent.

    tree  nodes by falling value: any prefix of the list is a tree
    ids   (n,) int32, ids in the working tree of the nodes of ``tree``; ids[0] == 0
    """

    tree: TokenTree
    ids: IntArray


def plan_pass(
    growing: GrowingTree, policy: DraftPolicy, stop_ids: frozenset[int] = frozenset()
) -> IntArray:
    """Nodes to expand in the next pass: (m,) int32 ids by falling value, m <= ``policy.beams``.

    Empty when no pass could change what is sent: every node that may have children at all (above
    the depth limit, not the end of the text) is expanded or too improbable, since a child is
    worth at most its parent, and must reach ``policy.floor`` and the best ``policy.budget``.
    """
    tree = growing.tree
    if policy.budget < 1:
        return EMPTY
    open_ = may_have_children(growing, stop_ids) & (tree.depth < policy.depth)
    open_ &= tree.value > _entry_value(tree.value[tree.depth <= policy.depth], policy.budget)
    open_ &= tree.value >= policy.floor
    return best_first(tree.value, open_, policy.beams)


def may_have_children(growing: GrowingTree, stop_ids: frozenset[int]) -> BoolArray:
    """(n,) bool: unexpanded, not hopeless, and not the end of the text."""
    tree = growing.tree
    open_: BoolArray = ~growing.expanded & (tree.value > 0)
    if stop_ids:
        # The root may well be a stop id that this session ignored, or an end of an earlier turn.
        is_end = np.logical_or.reduce([tree.token == stop_id for stop_id in stop_ids])
        is_end[0] = False
        open_ &= ~is_end
    return open_


def best_first(value: FloatArray, eligible: BoolArray, limit: int) -> IntArray:
    """The ``limit`` most valuable of the eligible nodes: (m,) int32 ids by falling value, the older
    first among equals."""
    candidates = np.flatnonzero(eligible)
    order = np.argsort(-value[candidates], kind="stable")
    return candidates[order[:limit]].astype(np.int32)


def add_children(growing: GrowingTree, nodes: IntArray, proposals: Proposals) -> GrowingTree:
    """The tree after ``nodes`` ((m,) int32, distinct, unexpanded) got their proposed children.

    Children go to the end: those of nodes[0] first, each node's in the order proposed.
    """
    tree = growing.tree
    if growing.expanded[nodes].any():
        raise ValueError("a node is expanded at most once")
    row, rank = np.nonzero(proposals.token >= 0)
    parent = nodes[row].astype(np.int32)
    accept = np.clip(proposals.accept[row, rank], 0.0, 1.0).astype(np.float32)
    grown = TokenTree(
        token=np.concatenate([tree.token, proposals.token[row, rank]]),
        parent=np.concatenate([tree.parent, parent]),
        depth=np.concatenate([tree.depth, tree.depth[parent] + 1]),
        logprob=np.concatenate([tree.logprob, proposals.logprob[row, rank]]),
        value=np.concatenate([tree.value, tree.value[parent] * accept]),
    )
    expanded = np.concatenate([growing.expanded, np.zeros(len(row), dtype=np.bool_)])
    expanded[nodes] = True
    return GrowingTree(grown, expanded)


def select(
    tree: TokenTree, budget: int, max_depth: int | None = None, floor: float = 0.0
) -> Selection:
    """The best ``budget`` nodes below the root worth ``floor`` or more, none deeper than
    ``max_depth`` if given.

    They are sent by falling value, the older first among equals. Values never rise along a path
    and a parent is older than its children, so a parent always precedes them: the choice is closed
    under parents, and so is every prefix of it.
    """
    drafted = np.flatnonzero(tree.value[1:] >= floor).astype(np.int32) + 1
    if max_depth is not None:
        drafted = drafted[tree.depth[drafted] <= max_depth]
    best = drafted[np.argsort(-tree.value[drafted], kind="stable")[: max(budget, 0)]]
    ids = np.concatenate([np.zeros(1, dtype=np.int32), best])
    return Selection(take(tree, ids), ids)


def _entry_value(value: FloatArray, budget: int) -> float:
    """What a new node must exceed to be among the best ``budget`` of those below the root; equals
    lose, since they are younger."""
    if len(value) <= budget:
        return -1.0
    return float(np.partition(value[1:], -budget)[-budget])


def take(tree: TokenTree, ids: IntArray) -> TokenTree:
    """The nodes ``ids``, renumbered in that order; parents precede their children in it."""
    new_id = np.zeros(len(tree), dtype=np.int32)
    new_id[ids] = np.arange(len(ids), dtype=np.int32)
    parent = new_id[tree.parent[ids]]
    parent[0] = -1
    return replace(
        tree,
        token=tree.token[ids],
        parent=parent,
        depth=tree.depth[ids],
        logprob=tree.logprob[ids],
        value=tree.value[ids],
    )
