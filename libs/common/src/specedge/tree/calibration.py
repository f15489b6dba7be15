"""From a drafter's score to the probability that its node is accepted, learned from verdicts.

What is estimated is acceptance *given an accepted parent*, as a function of score, rank among the
siblings, and depth. Estimates shrink towards a prior where little was seen:

    prior      agreement * exp(score)             before anything is known
    model      counts by (score, rank, depth)     of all sessions of one drafter and target
    session    counts by (score, rank)            of this session: its text may be easy or hard

each level blended as (accepted + strength * level above) / (tried + strength). A score need not be
a log-probability; the counts then soon outweigh the prior. What one score is worth differs between
a target that takes its likeliest token and one that samples, and between kinds of scores, so each
such case is counted apart. Knows nothing of trees being grown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from specedge.tree.path import find_path
from specedge.tree.token_tree import BoolArray, FloatArray, IntArray, TokenTree

# Upper edges of the bins, the last bin open: nats below certainty, rank from 0, depth from 1.
_SCORE_EDGES: Final = np.array([0.02, 0.1, 0.3, 0.7, 1.2, 1.8, 2.5, 3.5, 5.0, 7.0])
_RANK_EDGES: Final = np.array([0, 1, 2, 4])
_DEPTH_EDGES: Final = np.array([1, 2, 3, 5])
_RANKS: Final = len(_RANK_EDGES) + 1
_DEPTHS: Final = len(_DEPTH_EDGES) + 1
_SESSION_CELLS: Final = (len(_SCORE_EDGES) + 1) * _RANKS
_CASE_CELLS: Final = _SESSION_CELLS * _DEPTHS
_CASES: Final = 3  # greedy target; sampling target; sampling target, coupled scores
_MODEL_CELLS: Final = _CASE_CELLS * _CASES

PRIOR_AGREEMENT: Final = 0.8  # of the mass a small drafter gives, what a larger model agrees with
MODEL_STRENGTH: Final = 16.0  # trials that the prior is worth
SESSION_STRENGTH: Final = 32.0  # trials that the model's counts are worth
# A cell forgets half of what it saw when it has seen so much: text and models change.
FORGET_AT: Final = 4096.0
# Of what others saw on other text, as a cell starts with it: enough to be right from the first
# round, and soon outweighed.
MAX_PRIOR_TRIALS: Final = 256.0

# What the numbers of cells mean. Counts of another release's cells are of no use to this one.
_LAYOUT: Final[dict[str, Any]] = {
    "score_edges": _SCORE_EDGES.tolist(),
    "rank_edges": _RANK_EDGES.tolist(),
    "depth_edges": _DEPTH_EDGES.tolist(),
    "cases": ["greedy", "sampled", "coupled"],
}

_Cells = npt.NDArray[np.intp]
_Estimates = npt.NDArray[np.float64]


class ScoreKind(StrEnum):
    """What a drafter's scores are, all in nats, falling with the rank.

    LOGPROB  log-probability of the token, or what the drafter has instead of one
    COUPLED  log-softmax, over all tokens, of log-probability plus the target's own noise: no
             probability, but how far the token stands out from everything it competes with. One
             figure in place of margins to single siblings, and it tells more than they do
    """

    LOGPROB = "logprob"
    COUPLED = "coupled"


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Nodes whose parent was accepted, and whether they were too: m of them, root excluded.

    logprob (m,) float32, rank (m,) int32 among the siblings from 0, depth (m,) int32 from 1,
    accepted (m,) bool.
    """

    logprob: FloatArray
    rank: IntArray
    depth: IntArray
    accepted: BoolArray


class Tally:
    """Counts of trials and acceptances by cell. Mutable; one owner thread."""

    def __init__(self, num_cells: int = _MODEL_CELLS) -> None:
        self._tried = np.zeros(num_cells)
        self._accepted = np.zeros(num_cells)

    def add(self, cells: _Cells, accepted: BoolArray) -> None:
        """Count one trial per element."""
        np.add.at(self._tried, cells, 1.0)
        np.add.at(self._accepted, cells, accepted.astype(np.float64))
        full = self._tried > FORGET_AT
        self._tried[full] *= 0.5
        self._accepted[full] *= 0.5

    def blend(self, cells: _Cells, prior: _Estimates, strength: float) -> _Estimates:
        """Estimates for ``cells``, with ``prior`` counting as ``strength`` trials."""
        return (self._accepted[cells] + strength * prior) / (self._tried[cells] + strength)

    def as_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes. Only a model's tally can be written down."""
        seen = np.flatnonzero(self._tried)
        counts = zip(seen.tolist(), self._tried[seen], self._accepted[seen], strict=True)
        cells = [[cell, round(float(n), 1), round(float(a), 1)] for cell, n, a in counts]
        return {"layout": _LAYOUT, "cells": cells}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Tally":
        """A model's tally that starts from what ``as_json`` gave, no cell with more than
        ``MAX_PRIOR_TRIALS``; empty if that was of other cells. Raises ValueError for nonsense."""
        tally = cls()
        if body.get("layout") != _LAYOUT:
            return tally
        for cell, tried, accepted in body["cells"]:
            if not (0 <= cell < _MODEL_CELLS and 0 <= accepted <= tried):
                raise ValueError(f"cell {cell}: {accepted} of {tried}")
            share = min(1.0, MAX_PRIOR_TRIALS / max(tried, 1.0))
            tally._tried[cell], tally._accepted[cell] = share * tried, share * accepted
        return tally


class Calibration:
    """One session's map from score to acceptance. ``model`` is shared by the sessions of one
    drafter and target, and learns from all of them; ``is_greedy`` says how the target chooses in
    this one. One owner thread."""

    def __init__(
        self,
        model: Tally | None = None,
        agreement: float = PRIOR_AGREEMENT,
        *,
        is_greedy: bool = True,
    ) -> None:
        self._agreement = agreement
        self._is_greedy = is_greedy
        self._model = Tally() if model is None else model
        self._session = Tally(_SESSION_CELLS)

    def accept(
        self, logprob: FloatArray, depth: IntArray, kind: ScoreKind = ScoreKind.LOGPROB
    ) -> FloatArray:
        """Probability of acceptance, given an accepted parent, of proposed children.

        ``logprob`` (m, k) float32 holds one parent's children a row, falling; ``depth`` (m,) int32
        is the children's. Returns (m, k) float32 in [0, 1], of which a row sums to at most 1,
        since at most one sibling is accepted.
        """
        rank = np.broadcast_to(np.arange(logprob.shape[1]), logprob.shape)
        coarse, fine = _cells(logprob, rank, depth[:, None], self._case(kind))
        prior = self._agreement * np.exp(np.minimum(logprob, 0.0, dtype=np.float64))
        estimate = self._model.blend(fine, prior, MODEL_STRENGTH)
        estimate = self._session.blend(coarse, estimate, SESSION_STRENGTH)
        # A missing child (-inf) must not take from its siblings' share.
        estimate[np.isneginf(logprob)] = 0.0
        # Cells know nothing of one another, so a row's may add up to more than one. The first
        # child's cell is the surest, having seen the most; the others share what it leaves.
        first, others = estimate[:, :1], estimate[:, 1:]
        others *= np.minimum(
            1.0, (1.0 - first) / np.maximum(others.sum(axis=1, keepdims=True), 1e-9)
        )
        return estimate.astype(np.float32)

    def observe(self, outcomes: Outcomes, kind: ScoreKind = ScoreKind.LOGPROB) -> None:
        """Learn from a verdict on nodes whose scores are of ``kind``."""
        case = self._case(kind)
        coarse, fine = _cells(outcomes.logprob, outcomes.rank, outcomes.depth, case)
        self._session.add(coarse, outcomes.accepted)
        self._model.add(fine, outcomes.accepted)

    def _case(self, kind: ScoreKind) -> int:
        if kind is ScoreKind.COUPLED:
            return 2
        return 0 if self._is_greedy else 1


def outcomes(tree: TokenTree, tried: IntArray, committed: IntArray) -> Outcomes:
    """What a verdict says of the nodes ``tried`` ((m,) int32 ids of drafted nodes) of ``tree``.

    ``committed`` (c,) int32 are the tokens it commits, path and bonus. Only children of accepted
    nodes were really tested, and only where the target's token there is known.
    """
    path = find_path(tree, committed)
    is_accepted = np.zeros(len(tree), dtype=np.bool_)
    is_accepted[path] = True
    is_tested_parent = np.zeros(len(tree), dtype=np.bool_)
    is_tested_parent[0] = True
    is_tested_parent[path[: len(committed) - 1]] = True
    tested = tried[is_tested_parent[tree.parent[tried]]]
    return Outcomes(
        tree.logprob[tested],
        sibling_rank(tree.parent)[tested],
        tree.depth[tested],
        is_accepted[tested],
    )


def sibling_rank(parent: IntArray) -> IntArray:
    """How many older siblings each node has: (n,) int32."""
    by_parent = np.argsort(parent, kind="stable")
    _, first, sizes = np.unique(parent[by_parent], return_index=True, return_counts=True)
    rank = np.empty(len(parent), dtype=np.int32)
    rank[by_parent] = np.arange(len(parent)) - np.repeat(first, sizes)
    return rank


def _cells(
    logprob: FloatArray, rank: npt.ArrayLike, depth: IntArray, case: int
) -> tuple[_Cells, _Cells]:
    """Cells of the session's counts and of the model's."""
    score_bin = np.searchsorted(_SCORE_EDGES, -logprob)
    coarse = score_bin * _RANKS + np.searchsorted(_RANK_EDGES, rank)
    fine = coarse * _DEPTHS + np.searchsorted(_DEPTH_EDGES, depth)
    return coarse, fine + case * _CASE_CELLS
