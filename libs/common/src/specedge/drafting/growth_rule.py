"""When to stop growing a tree, and how much of it to send: one round's rule, as a frozen value.

With λ tokens per millisecond as the rate of the session at its best, a millisecond is worth λ
tokens. So a pass is run if the tokens it is expected to add exceed λ times what it costs, and a
node is sent if its probability of acceptance exceeds λ times what its row costs the verifier.
Stopping a ratio of gains to costs like this is optimal when λ is the best ratio (Dinkelbach 1967);
UCB-SpecStop (arXiv 2606.20591) shows that the depth then grows with the logarithm of the delay.

Made by a ``DraftController`` for one round, read by the thread that drafts it. No clock, no I/O.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.drafting.cost_curve import Figures
from specedge.tree.token_tree import FloatArray

_NEGLIGIBLE: Final = 0.1  # of a pass: what all its rows take, on a device that is wide enough


@dataclass(frozen=True, slots=True, eq=False)
class PassRecord:
    """One pass of a drafter, as the thread that ran it saw it.

    num_rows     nodes expanded in it
    ms           how long it took
    accept       (m, k) float32, calibrated acceptance of the children of each of them, falling
                 along a row, given an accepted parent; 0 where there is no child
    depth        (m,) int32 of the expanded nodes, 0 for the root
    is_ahead     run while the round before was out: beside the verifier's step, where both are on
                 one machine, and so perhaps slower than one that a draft waits for
    """

    num_rows: int
    ms: float
    accept: FloatArray
    depth: npt.NDArray[np.int32]
    is_ahead: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class GrowthRule:
    """What a round's growth may cost and is worth.

    rate       λ: tokens that a millisecond is worth
    trust      observed over predicted acceptances: values are multiplied by it
    pass_ms, row_ms   a pass of the drafter takes pass_ms + row_ms * expanded nodes
    verify_ms  (budget + 1,) float64: the verifier's step with 0, 1, … nodes sent
    children   (depths, samples, branch) float64: acceptances, given an accepted parent, of the
               children of some nodes seen lately at depth 0, 1, …; the last holds for all deeper
    free_passes  that take nobody's time, since the verifier does not want the draft before
    """

    rate: float
    trust: float
    pass_ms: float
    row_ms: float
    verify_ms: Figures
    children: Figures
    free_passes: int = 0

    def after(self, num_passes: int) -> "GrowthRule":
        """The rule for what follows upon so many passes of the round."""
        if num_passes >= self.free_passes:
            return self
        return replace(self, pass_ms=0.0, row_ms=0.0)

    @property
    def budget(self) -> int:
        """Nodes sent at most."""
        return len(self.verify_ms) - 1

    def num_sent(self, value: FloatArray) -> int:
        """How many nodes to send: the prefix of ``value`` ((n,), the drafted nodes' values,
        falling) that is worth most beyond what its rows cost."""
        return int(self._worth(value[None, :].astype(np.float64))[0].argmax())

    def num_expanded(self, value: FloatArray, frontier: FloatArray, depth: FloatArray) -> int:
        """How many nodes the next pass should expand; 0: it is not worth while.

        ``value`` (n,) as in ``num_sent``; ``frontier`` (m,) the values of the nodes that may be
        expanded, falling, and ``depth`` (m,) their depths.

        Looks one pass ahead, which is enough: values fall along a path and a pass always costs
        the same, so where one pass does not pay, no second one makes up for it.
        """
        if len(frontier) == 0 or self.budget == 0:
            return 0
        now = self._worth(value[None, :].astype(np.float64)).max()
        born = self._children_of(frontier, depth)  # (samples, m, branch)
        is_free = self.row_ms * len(frontier) < _NEGLIGIBLE * self.pass_ms
        choices = [len(frontier)] if is_free else _halvings(len(frontier))
        net = [self._worth_with(value, born[:, :num]) - self._pass_worth(num) for num in choices]
        best = int(np.argmax(net))
        return choices[best] if net[best] > now else 0

    def _pass_worth(self, num_rows: int) -> float:
        """In tokens."""
        return self.rate * (self.pass_ms + self.row_ms * num_rows)

    def _children_of(self, frontier: FloatArray, depth: FloatArray) -> Figures:
        """What children the frontier may get, as (samples, m, branch) values: sample i of node j is
        what some node at its depth had lately, each node another, as if they were independent."""
        depths, samples, _ = self.children.shape
        level = np.minimum(depth.astype(np.intp), depths - 1)
        turn = (np.arange(samples)[:, None] + np.arange(len(frontier))) % samples
        born: Figures = self.children[level[None, :], turn] * frontier[None, :, None]
        return born

    def _worth_with(self, value: FloatArray, born: Figures) -> float:
        """Mean worth of what would be sent if the tree got these children."""
        samples = len(born)
        old = np.broadcast_to(value.astype(np.float64), (samples, len(value)))
        both = np.concatenate([old, born.reshape(samples, -1)], axis=1)
        both = np.sort(both, axis=1)[:, ::-1]
        return float(self._worth(both).max(axis=1).mean())

    def _worth(self, value: Figures) -> Figures:
        """Of sending 0, 1, … nodes of (s, n) values, falling along a row: (s, 1 + n) tokens, less
        what the time is worth that their rows take."""
        gained = self.trust * np.cumsum(value[:, : self.budget], axis=1)
        spent = self.rate * (self.verify_ms - self.verify_ms[0])
        worth = np.zeros((len(value), gained.shape[1] + 1))
        worth[:, 1:] = gained - spent[1 : gained.shape[1] + 1]
        return worth


def _halvings(count: int) -> list[int]:
    """count, count / 2, …, 1."""
    halvings = [count]
    while halvings[-1] > 1:
        halvings.append(halvings[-1] // 2)
    return halvings
