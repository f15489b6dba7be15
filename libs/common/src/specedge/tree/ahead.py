"""Growing beyond what was sent: which nodes to expand while the verdict is out, and how much of a
round a tree that outlived its verdict has already. Pure functions on values.

A verdict leaves the sent tree at an *outcome*: a token that was not sent, below a sent node. The
value of a node that is in the working tree but was not sent is exactly P(the walk reaches its sent
ancestor) * p(the target goes on as the drafter did): the best such nodes are the likeliest
outcomes, and what hangs below them is the head start of the next round.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.tree.grow import EMPTY, GrowingTree, best_first, may_have_children, take
from specedge.tree.token_tree import BoolArray, FloatArray, IntArray, TokenTree

# A level of the next round is there when so much of its probability is expanded. The other nodes
# are worth less than the time to expand them: a round would have left most of them out too.
MOST: Final = 0.5
# How likely one level goes on to the next, at most.
MOST_GOES_ON: Final = 0.95
# Of what the open nodes of a draft would yield, what waiting for it yields: it has as many nodes as
# before, and not all of the best ones are those that passes add. Measured: docs/adr/0034.
HAD: Final = 1 / 3


@dataclass(frozen=True, slots=True, eq=False)
class OfferPolicy:
    """What of a working tree is worth sending before the verdict.

    max_nodes  to send, what lies between the root and the outcomes included
    floor      nodes less likely than this to be accepted once their outcome came are not sent: they
               would be rows of a step
    worth      nodes expected to be accepted below an outcome, at least: less is no use of a step
    lacking    nodes that further passes would have added to those, at most: with more it is better
               to wait for them, knowing the verdict
    levels     below an outcome, that a draft which is waited for may have
    price      (k + 1,) float64, rising: tokens that 0, 1, … nodes below an outcome cost. As many
               are sent as are worth most beyond it, k at most; None: all
    """

    max_nodes: int = 64
    floor: float = 0.05
    worth: float = 0.3
    lacking: float = math.inf
    levels: int = 5
    price: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class AheadPolicy:
    """How far to draft beyond what was sent.

    levels     below every outcome: what the next round can send, so its depth
    max_nodes  in the working tree; bounds memory, and what a verdict must carry over
    beams      nodes expanded in one pass at most
    branch     children considered per expanded node
    floor      nodes less likely to be reached than this are not expanded: a pass costs energy, and
               delays whoever asks for the device while it runs
    """

    levels: int = 5
    max_nodes: int = 384
    beams: int = 8
    branch: int = 8
    floor: float = 0.02


def plan_ahead(
    growing: GrowingTree,
    sent: IntArray,
    policy: AheadPolicy,
    *,
    max_depth: int | None = None,
    stop_ids: frozenset[int] = frozenset(),
) -> IntArray:
    """Nodes to expand in the next pass beyond the round that is out: (m,) int32 ids by falling
    value, m <= ``policy.beams``; empty when no further pass is worth it.

    ``sent`` (k,) int32 are the ids, root included, of what the verdict will be about. No node at
    ``max_depth`` or deeper is expanded.
    """
    tree = growing.tree
    if policy.levels < 1 or len(tree) >= policy.max_nodes:
        return EMPTY
    open_ = may_have_children(growing, stop_ids)
    open_ &= (tree.value >= policy.floor) & (levels_beyond(tree, sent) <= policy.levels)
    if max_depth is not None:
        open_ &= tree.depth < max_depth
    return best_first(tree.value, open_, policy.beams)


def levels_beyond(tree: TokenTree, sent: IntArray) -> IntArray:
    """How far each node lies beyond what was sent: (n,) int32, 0 for the ``sent`` ones, 1 for
    outcomes, one more than its parent for every other node."""
    beyond = np.ones(len(tree), dtype=np.int32)
    beyond[sent] = 0
    # The unsent ancestors of a node, itself included: each turn adds those of as many levels
    # again. The root, which was sent, is its own ancestor here.
    above = np.maximum(tree.parent, 0)
    for _ in range(int(tree.depth.max()).bit_length()):
        beyond = beyond + beyond[above]
        above = above[above]
    return beyond


def select_ahead(growing: GrowingTree, sent: IntArray, policy: OfferPolicy) -> TokenTree:
    """What to send before the verdict on ``sent`` ((k,) int32 ids, root included): the likeliest
    outcomes with what hangs below them, and what leads to them. By falling value, so any prefix is
    a tree; the root alone if no outcome is worth it."""
    tree = growing.tree
    beyond = levels_beyond(tree, sent)
    outcome = _outcomes(tree, beyond)
    of_outcome = np.maximum(tree.value[outcome], np.finfo(np.float32).tiny)
    share = (tree.value / of_outcome).astype(np.float32)
    below = (beyond >= 2) & (share >= policy.floor)
    if policy.price is not None:
        below &= _worth_their_price(share, below, outcome, policy.price)
    worth = _sums(share, below, outcome)
    is_worth_it = worth >= policy.worth
    if policy.lacking < math.inf:
        left = policy.levels + 1 - beyond
        open_ = ~growing.expanded & (beyond >= 1) & (share >= policy.floor) & (left > 0)
        is_worth_it &= _lacking(share, growing.expanded, open_, outcome, left) <= policy.lacking
    is_chosen = (beyond >= 1) & is_worth_it[outcome] & (below | (beyond == 1))
    chosen = best_first(tree.value, is_chosen, policy.max_nodes)
    wanted = np.zeros(len(tree), dtype=np.bool_)
    wanted[chosen] = True
    for node in range(len(tree) - 1, 0, -1):  # children before parents
        if wanted[node]:
            wanted[tree.parent[node]] = True
    wanted[0] = False
    best = best_first(tree.value, wanted, policy.max_nodes)
    return take(tree, np.concatenate([np.zeros(1, dtype=np.int32), best]))


def _worth_their_price(
    share: FloatArray, below: BoolArray, outcome: IntArray, price: npt.NDArray[np.float64]
) -> BoolArray:
    """(n,) bool: below each outcome the best nodes, as many as are worth most beyond their price.
    Parents precede their children in both orders, so what is left is closed under parents."""
    nodes = np.flatnonzero(below)
    nodes = nodes[np.lexsort((-share[nodes], outcome[nodes]))]
    first = np.flatnonzero(np.diff(outcome[nodes], prepend=-1))  # of each outcome
    group = np.repeat(np.arange(len(first)), np.diff(first, append=len(nodes)))
    rank = np.arange(len(nodes)) - first[group]
    gained = np.cumsum(share[nodes], dtype=np.float64)
    before = gained[first] - share[nodes[first]]
    num_sent = np.minimum(rank + 1, len(price) - 1)
    worth = gained - before[group] - price[num_sent]
    worth[rank >= len(price) - 1] = -np.inf
    best = np.maximum(np.maximum.reduceat(worth, first), 0.0) if len(first) else worth
    # The first of several equals.
    is_best = np.flatnonzero(worth >= best[group])
    last = np.full(len(first), -1)
    last[group[is_best[::-1]]] = rank[is_best[::-1]]
    kept = np.zeros(len(share), dtype=np.bool_)
    kept[nodes[rank <= last[group]]] = True
    return kept


def _lacking(
    share: FloatArray, expanded: BoolArray, open_: BoolArray, outcome: IntArray, left: IntArray
) -> FloatArray:
    """(n,) float32, at each outcome: nodes that passes over the ``open_`` ones below it, and over
    what they add, would yield. One level goes on to the next as those did that are there."""
    children = outcome != np.arange(len(share))
    reached = np.maximum(_sums(share, expanded, outcome), np.finfo(np.float32).tiny)
    goes_on = np.minimum(_sums(share, children, outcome) / reached, MOST_GOES_ON)[outcome]
    further = goes_on * (1 - goes_on ** np.maximum(left, 0)) / (1 - goes_on)
    return np.float32(HAD) * _sums(share * further, open_, outcome)


def _sums(share: FloatArray, nodes: BoolArray, outcome: IntArray) -> FloatArray:
    """(n,) float32: of the ``nodes`` at or below each outcome."""
    sums = np.bincount(outcome[nodes], weights=share[nodes], minlength=len(share))
    return sums.astype(np.float32)


def _outcomes(tree: TokenTree, beyond: IntArray) -> IntArray:
    """(n,) int32: of each node beyond what was sent the outcome that it hangs below, which may be
    itself; of every other node itself."""
    outcome = list(range(len(tree)))
    for node, (above, level) in enumerate(zip(tree.parent.tolist(), beyond.tolist(), strict=True)):
        if level >= 2:
            outcome[node] = outcome[above]
    return np.array(outcome, dtype=np.int32)


def levels_there(growing: GrowingTree, stop_ids: frozenset[int] = frozenset()) -> int:
    """How many levels of a round the tree has already: as many passes less are to be run.

    Level k + 1 is there when the expanded nodes of depth k hold most of the probability of all
    that may have children.
    """
    tree = growing.tree
    wanted = may_have_children(GrowingTree.start(tree), stop_ids)
    levels = 0
    while True:
        here = wanted & (tree.depth == levels)
        reached = _mass(tree, here & growing.expanded)
        if reached <= 0.0 or reached < MOST * _mass(tree, here):
            return levels
        levels += 1


def _mass(tree: TokenTree, nodes: BoolArray) -> float:
    return float(tree.value[nodes].sum())
