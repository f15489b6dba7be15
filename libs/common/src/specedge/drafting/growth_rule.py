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
        gained = self._gained(value)
        return int((gained - self.price[: len(gained)]).argmax())

    def num_expanded(self, value: FloatArray, frontier: FloatArray, depth: FloatArray) -> int:
        """How many nodes the next pass should expand; 0: it is not worth while.

        ``value`` (n,) as in ``num_sent``; ``frontier`` (m,) the values of the nodes that may be
        expanded, falling, and ``depth`` (m,) their depths.

        Looks one pass ahead, which is enough: values fall along a path and a pass always costs
        the same, so where one pass does not pay, no second one makes up for it.
        """
        if len(frontier) == 0 or self.budget == 0:
            return 0
        beside = self._worth_beside(value, num_new=frontier.size * self.children.shape[2])
        born = self.trust * self._children_of(frontier, depth)  # (samples, m, branch)
        is_free = self.row_ms * len(frontier) < _NEGLIGIBLE * self.pass_ms
        choices = [len(frontier)] if is_free else _halvings(len(frontier))
        net = _worth_with(beside, born, choices) - self._pass_worth(np.array(choices))
        best = int(net.argmax())
        return choices[best] if net[best] > beside[0] else 0

    @property
    def price(self) -> Figures:
        """(budget + 1,) float64: tokens that the time is worth which 0, 1, … nodes sent take."""
        price: Figures = self.rate * (self.verify_ms - self.verify_ms[0])
        return price

    def _pass_worth(self, num_rows: npt.NDArray[np.int_]) -> Figures:
        """Of passes over so many rows, in tokens."""
        return np.asarray(self.rate * (self.pass_ms + self.row_ms * num_rows), dtype=np.float64)

    def _children_of(self, frontier: FloatArray, depth: FloatArray) -> Figures:
        """What children the frontier may get, as (samples, m, branch) values: sample i of node j is
        what some node at its depth had lately, each node another, as if they were independent."""
        depths, samples, _ = self.children.shape
        level = np.minimum(depth.astype(np.intp), depths - 1)
        turn = (np.arange(samples)[:, None] + np.arange(len(frontier))) % samples
        born: Figures = self.children[level[None, :], turn] * frontier[None, :, None]
        return born

    def _worth_beside(self, value: FloatArray, num_new: int) -> Figures:
        """(1 + at most ``num_new``,) of the best of the nodes that are there (``value`` as in
        ``num_sent``) where 0, 1, … new ones are sent with them: tokens, less the price of all."""
        gained = self._gained(value)
        most_new = min(num_new, self.budget)
        together = np.arange(len(gained))[:, None] + np.arange(most_new + 1)
        price = np.append(self.price, np.inf)[np.minimum(together, self.budget + 1)]
        return np.asarray((gained[:, None] - price).max(axis=0), dtype=np.float64)

    def _gained(self, value: FloatArray) -> Figures:
        """(1 + n,) tokens that the best 0, 1, … of the nodes yield, as many as may be sent."""
        gained = np.zeros(1 + min(len(value), self.budget))
        np.cumsum(value[: self.budget], out=gained[1:], dtype=np.float64)
        return self.trust * gained


def _worth_with(beside: Figures, born: Figures, choices: list[int]) -> Figures:
    """If the first 4, 2, … (``choices``) of m nodes get children, ``born`` (samples, m, branch):
    the mean over the samples of what is worth most, some of the new nodes, the best first, and what
    goes best with so many.

    The best k of old and new together are the best j of the new and the best k - j of the old for
    some j, so both are never sorted together."""
    samples, m, branch = born.shape
    is_expanded = np.arange(m) < np.array(choices)[:, None]
    new = (born * is_expanded[:, None, :, None]).reshape(len(choices), samples, m * branch)
    new.sort(axis=2)
    most_new = len(beside) - 1
    worth = np.cumsum(new[:, :, ::-1][:, :, :most_new], axis=2) + beside[1:]
    mean: Figures = np.maximum(worth.max(axis=2), beside[0]).mean(axis=1)
    return mean


def _halvings(count: int) -> list[int]:
    """count, count / 2, …, 1."""
    halvings = [count]
    while halvings[-1] > 1:
        halvings.append(halvings[-1] // 2)
    return halvings
