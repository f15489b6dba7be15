"""When to stop growing a tree, and how much of it to send: one round's rule, as a frozen value.

With λ tokens per millisecond as the rate of the session at its best, a millisecond is worth λ
tokens. So a pass is run if the tokens it is expected to add exceed λ times what it costs, and a
node is sent if its probability of acceptance exceeds λ times what its row costs the verifier.
Stopping a ratio of gains to costs like this is optimal when λ is the best ratio (Dinkelbach 1967);
UCB-SpecStop (arXiv 2606.20591) shows that the depth then grows with the logarithm of the delay.

Made by a ``DraftController`` for one round, read by the thread that drafts it. No clock, no I/O.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specedge.tree.token_tree import FloatArray

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PassRecord:
    """One pass of a drafter, as the thread that ran it saw it.

    num_rows     nodes expanded in it
    ms           how long it took
    accept       (m, k) float32, calibrated acceptance of the children of each of them, falling
                 along a row, given an accepted parent; 0 where there is no child
    depth        (m,) int32 of the expanded nodes, 0 for the root
    """

    num_rows: int
    ms: float
    accept: FloatArray
    depth: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class GrowthRule:
    """What a round's growth may cost and is worth.

    rate       λ: tokens per millisecond that time is worth
    trust      observed over predicted acceptances: values are multiplied by it
    pass_ms, row_ms   a pass of the drafter takes pass_ms + row_ms * expanded nodes
    verify_ms  (budget + 1,) float64: what the verifier's step takes with 0, 1, … nodes sent
    children   (depths, branch) float64: mean acceptance of the children, by rank, of a node at
               depth 0, 1, …; the last row holds for all deeper ones
    extra_passes  passes to run beyond what they are expected to be worth, to learn what they are
    """

    rate: float
    trust: float
    pass_ms: float
    row_ms: float
    verify_ms: Figures
    children: Figures
    extra_passes: int = 0

    @property
    def budget(self) -> int:
        """Nodes sent at most."""
        return len(self.verify_ms) - 1

    def num_sent(self, value: FloatArray) -> int:
        """How many nodes to send: the best prefix of ``value`` ((n,), the drafted nodes' values,
        falling)."""
        return self._best(value)[0]

    def num_expanded(self, value: FloatArray, frontier: FloatArray, depth: FloatArray) -> int:
        """How many nodes the next pass should expand; 0: it is not worth while.

        ``value`` (n,) as in ``num_sent``; ``frontier`` (m,) the values of the nodes that may be
        expanded, falling, and ``depth`` (m,) their depths.
        """
        raise NotImplementedError

    def _best(self, value: FloatArray) -> tuple[int, float]:
        raise NotImplementedError
