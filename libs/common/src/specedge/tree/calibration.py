"""From a drafter's score to the probability that its node is accepted, learned from verdicts.

What is estimated is acceptance *given an accepted parent*, as a function of score, rank among the
siblings, and depth. Estimates shrink towards a prior where little was seen:

    prior      agreement * exp(score)             before anything is known
    model      counts by (score, rank, depth)     of all sessions of one drafter and target
    session    counts by (score, rank)            of this session

each level blended as (accepted + strength * level above) / (tried + strength). A session is short,
and its text may be easy or hard as a whole: so its estimates are all moved together too, by as much
in log-odds as its verdicts so far speak for (a logistic regression of one parameter, step by step).

A score need not be a log-probability; the counts then soon outweigh the prior. What one score is
worth differs between a target that takes its likeliest token and one that samples, and between
kinds of scores, so each such case is counted apart. Knows nothing of trees being grown.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from specedge.tree.path import find_path
from specedge.tree.tally import SESSION_CELLS, Cells, Estimates, cells_of
from specedge.tree.tally import Tally as Tally
from specedge.tree.token_tree import BoolArray, FloatArray, IntArray, TokenTree

PRIOR_AGREEMENT: Final = 0.8  # of the mass a small drafter gives, what a larger model agrees with
MODEL_STRENGTH: Final = 16.0  # trials that the prior is worth
SESSION_STRENGTH: Final = 32.0  # trials that the model's counts are worth
# Of a session's log-odds: how firmly it is held at nothing before the first verdict, and how firmly
# at most at what it became, which is how fast it forgets. In units of p * (1 - p), summed.
SHIFT_WEIGHT: Final = 3.0
MAX_SHIFT_WEIGHT: Final = 20.0
MAX_SHIFT: Final = 3.0
_CERTAIN: Final = 1e-6


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
        self._session = Tally(SESSION_CELLS)
        self._shift, self._shift_weight = 0.0, SHIFT_WEIGHT

    def accept(
        self, logprob: FloatArray, depth: IntArray, kind: ScoreKind = ScoreKind.LOGPROB
    ) -> FloatArray:
        """Probability of acceptance, given an accepted parent, of proposed children.

        ``logprob`` (m, k) float32 holds one parent's children a row, falling; ``depth`` (m,) int32
        is the children's. Returns (m, k) float32 in [0, 1], of which a row sums to at most 1,
        since at most one sibling is accepted.
        """
        rank = np.broadcast_to(np.arange(logprob.shape[1]), logprob.shape)
        coarse, fine = cells_of(logprob, rank, depth[:, None], self._case(kind))
        estimate = self._estimate(logprob, coarse, fine)
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
        coarse, fine = cells_of(outcomes.logprob, outcomes.rank, outcomes.depth, case)
        expected = self._estimate(outcomes.logprob, coarse, fine)
        information = float((expected * (1.0 - expected)).sum())
        self._shift_weight = min(self._shift_weight + information, MAX_SHIFT_WEIGHT + information)
        surprise = float((outcomes.accepted - expected).sum())
        shift = self._shift + surprise / self._shift_weight
        self._shift = min(MAX_SHIFT, max(-MAX_SHIFT, shift))
        self._session.add(coarse, outcomes.accepted)
        self._model.add(fine, outcomes.accepted)

    def _estimate(self, logprob: FloatArray, coarse: Cells, fine: Cells) -> Estimates:
        """Acceptance of nodes by themselves, their siblings aside: the shape of ``logprob``."""
        prior = self._agreement * np.exp(np.minimum(logprob, 0.0, dtype=np.float64))
        estimate = self._model.blend(fine, prior, MODEL_STRENGTH)
        estimate = self._session.blend(coarse, estimate, SESSION_STRENGTH)
        estimate = estimate.clip(_CERTAIN, 1.0 - _CERTAIN)
        odds = estimate / (1.0 - estimate) * np.exp(self._shift)
        shifted: Estimates = odds / (1.0 + odds)
        return shifted

    def _case(self, kind: ScoreKind) -> str:
        if kind is ScoreKind.COUPLED:
            return "coupled"
        return "greedy" if self._is_greedy else "sampled"


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
