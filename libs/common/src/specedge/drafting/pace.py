"""What the sessions of one drafter learned together of time and acceptance: costs of a pass and of
a step by rows, the way there and back, what a hosted token takes. Pure; one owner thread.

Sessions differ by their text, so each keeps its own rate; it starts from what is here.
"""

from typing import Final

import numpy as np

from specedge.drafting.averages import Allowance, Average, Yield
from specedge.drafting.cost_curve import STRAIGHT, CostCurve, Figures
from specedge.drafting.growth_rule import PassRecord

# What the children of a node are worth, before any was seen: hopeful, so that it will be seen.
PRIOR_CHILDREN: Final = (0.5, 0.14, 0.07, 0.05, 0.03, 0.02, 0.015, 0.01)
DEPTHS: Final = 6
SAMPLES: Final = 64
SESSION_SAMPLES: Final = 24
_PER_PASS: Final = 2  # nodes of one pass and depth that are remembered: the most valuable ones

_ROUNDS: Final = 64.0  # memory of what changes with the load
_YIELD_ROUNDS: Final = 256.0  # memory of what is only measured with much noise
_TRUST_MEMORY: Final = 400.0  # accepted nodes
_TRUST_PRIOR: Final = 24.0  # accepted nodes that "as predicted" is worth at the start

_DOUBT: Final = 0.5  # of what drafting yields or hosted tokens take, before any was seen
_CONVINCING: Final = 2.0  # rounds or tokens after which half of it is left
UNSEEN_SLOPE: Final = 1 / 16  # of a step, per row beyond the most rows seen
EXPERIMENTS: Final = 0.01  # of all time may be lost to them
_FIRST_CREDIT_MS: Final = 75.0
_MOST_SAVED_MS: Final = 4000.0
_MOST_OWED_MS: Final = 150.0


class DevicePace:
    """Shared by the controllers of all sessions of one drafter.

    num_rounds, num_trees   drafted rounds measured; those of them that had a tree
    usual              what they yielded, over all sessions
    network_ms, num_trips   of a round trip, beside the verifier's part in it; how many were seen
    queue_ms           scheduler and verifier, before the step
    experiments_after_tokens   before the other way of working may be tried again
    hosted_ratio       a hosted token's time over what step and queue let expect
    """

    def __init__(self) -> None:
        self.pass_cost = CostCurve(STRAIGHT)
        self.step_cost = CostCurve()
        self.num_rounds = self.num_trees = 0
        self.usual = Yield.over(_YIELD_ROUNDS)
        self.network_ms = Average(16.0)
        self.num_trips = 0
        self.queue_ms = Average(16.0)
        self.other_rows = Average(16.0)
        self.hosted_ratio = Average(_ROUNDS, mean=1.0)
        self.allowance = Allowance(EXPERIMENTS, _FIRST_CREDIT_MS, _MOST_SAVED_MS, _MOST_OWED_MS)
        self.experiments_after_tokens = 0
        self.children = ChildSamples(SAMPLES)
        self._most_rows = 0.0
        self._predicted = self._accepted = _TRUST_PRIOR

    @property
    def known_nodes(self) -> float:
        """Nodes of a draft of which it is known what their rows cost."""
        return self._most_rows - self.other_rows.mean - 1.0

    @property
    def trust(self) -> float:
        """Observed over predicted acceptances."""
        return self._accepted / self._predicted

    def learn_trust(self, predicted: float, num_accepted: int) -> None:
        """So many nodes were expected to be accepted, and so many were."""
        self._predicted += predicted
        self._accepted += num_accepted
        if self._predicted > _TRUST_MEMORY:
            self._accepted *= _TRUST_MEMORY / self._predicted
            self._predicted = _TRUST_MEMORY

    def learn_pass(self, record: PassRecord) -> None:
        """What a pass took. Those that no draft waited for tell something only as long as there
        is nothing better: they may have run beside the verifier's step."""
        if not record.is_ahead or self.pass_cost.weight == 0.0:
            self.pass_cost.observe(record.num_rows, record.ms)

    def learn_step(
        self, num_rows: int, own_rows: int | None, step_ms: float, queue_ms: float
    ) -> None:
        """A verdict's timing: rows of the step in all, and of this session alone; None: unknown,
        since it computed the prompt too."""
        if step_ms <= 0.0:
            return  # a verifier that does not say
        num_rows = max(num_rows, own_rows or 1)
        self.step_cost.observe(num_rows, step_ms)
        self._most_rows = max(self._most_rows, float(num_rows))
        if own_rows is not None:
            self.other_rows.add(num_rows - own_rows)
        self.queue_ms.add(queue_ms)

    def verify_ms(self, budget: int, unseen_slope: float = UNSEEN_SLOPE) -> Figures:
        """(budget + 1,) float64: a step with 0 … budget nodes of this session, beside the others'
        rows. Beyond the most rows seen so far, rows are taken to be dear: flatness must be shown,
        and is soon, since good nodes pay even so."""
        rows = self.other_rows.mean + np.arange(1, budget + 2, dtype=np.float64)
        known = self.step_cost.at(rows)
        unseen = np.maximum(rows - self._most_rows, 0.0)
        cost: Figures = known + unseen * unseen_slope * known[0]
        return cost

    def draft_ms(self) -> tuple[float, float]:
        """A pass of the drafter: milliseconds whatever its rows, and per row."""
        one, nine = self.pass_cost.at(np.array([1.0, 9.0]))
        row_ms = float(nine - one) / 8
        return float(one) - row_ms, row_ms

    @property
    def step_ms(self) -> float:
        """The verifier's step that tries no node of this session's; 0 where none was seen."""
        return float(self.verify_ms(0)[0])

    def expected_hosted_ms(self) -> float:
        """A hosted token's time, if the verifier goes step by step."""
        return self.step_ms + self.queue_ms.mean

    def hosted_ms(self) -> float:
        """A hosted token's time, as measured, if ever."""
        return self.hosted_ratio.mean * self.expected_hosted_ms()


def doubt(num_seen: float) -> float:
    """Roughly the relative error of what so many drafted rounds, or hosted tokens, say."""
    return _DOUBT / (1.0 + num_seen / _CONVINCING)


class ChildSamples:
    """Acceptances of the children of nodes seen lately, by the parent's depth.

    Samples, not means: a pass is worth what its better outcomes are worth, since the worse ones
    are not sent.
    """

    def __init__(self, samples: int = SAMPLES) -> None:
        self._samples = samples
        self._rows = np.tile(np.array(PRIOR_CHILDREN), (DEPTHS, samples, 1))
        self._next = np.zeros(DEPTHS, dtype=np.intp)
        self._seen = np.zeros(DEPTHS, dtype=np.intp)

    def newest(self, samples: int) -> "ChildSamples":
        """A copy that remembers fewer, for a session's own."""
        copied = ChildSamples(samples)
        for depth in range(DEPTHS):
            order = (self._next[depth] + np.arange(self._samples)) % self._samples  # oldest first
            copied._rows[depth] = self._rows[depth, order[-samples:]]
        copied._seen = self._seen.copy()
        return copied

    def add(self, record: PassRecord) -> None:
        """Remember the best nodes of a pass, at each depth."""
        taken = [0] * DEPTHS
        for row, node_depth in enumerate(record.depth.tolist()):
            depth = min(node_depth, DEPTHS - 1)
            if taken[depth] < _PER_PASS:
                taken[depth] += 1
                self._put(depth, record.accept[row])

    def view(self) -> Figures:
        """(depths, samples, branch) float64. Depths not reached yet look like those above them."""
        rows = self._rows.copy()
        for depth in range(1, DEPTHS):
            if self._seen[depth] == 0:
                rows[depth] = rows[depth - 1]
        return rows

    def _put(self, depth: int, accept: np.typing.NDArray[np.float32]) -> None:
        branch = min(len(accept), self._rows.shape[2])
        at = self._next[depth]
        self._rows[depth, at] = 0.0
        self._rows[depth, at, :branch] = accept[:branch]
        self._next[depth] = (at + 1) % self._samples
        self._seen[depth] += 1
