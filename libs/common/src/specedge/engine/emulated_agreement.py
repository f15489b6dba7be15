"""How often an emulated drafter is right, and how sure of itself it says it is.

Each kind answers two questions for a node: at which rank of its children the target's token is
found, and how the drafter scores its children. Knows no tokens. Imports no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from specedge.engine.stored_arrays import read_arrays
from specedge.errors import InvalidRequest
from specedge.tree.token_tree import FloatArray

NEVER: Final = 1 << 30
# A hopeless child still has a finite score, falling with its rank.
LEAST_PROBABILITY: Final = 1e-6


class Agreement(Protocol):
    """``depth`` is the children's, from 1 on; ``position`` theirs in the text."""

    def rank(self, u: float, depth: int, position: int) -> int:
        """Of the target's token among the children, from a number in (0, 1); NEVER: none is it."""
        ...

    def scores(self, branch: int, depth: int, position: int) -> Sequence[float]:
        """Log-probabilities of ``branch`` children, falling."""
        ...


class GeometricAgreement:
    """``by_depth``: the probability, per depth from 1 on (the last one holds for all deeper), that
    the target's token is the first child; given that it is not, that it is the second with the same
    probability, and so on. Raises ValueError for what is no probability."""

    def __init__(self, by_depth: Sequence[float]) -> None:
        self._by_depth = _checked(by_depth)
        self._scores: dict[tuple[int, int], list[float]] = {}  # the same again and again

    def rank(self, u: float, depth: int, position: int) -> int:
        """See ``Agreement.rank``."""
        agreement = _at(self._by_depth, depth)
        if agreement <= 0.0:
            return NEVER
        if agreement >= 1.0:
            return 0
        return int(min(math.log(u) / math.log1p(-agreement), NEVER))

    def scores(self, branch: int, depth: int, position: int) -> list[float]:
        """Honest, but for the hopeless, which get some small ones."""
        key = branch, min(depth, len(self._by_depth))
        if key not in self._scores:
            agreement = _at(self._by_depth, depth)
            each = [agreement * (1.0 - agreement) ** rank for rank in range(branch)]
            self._scores[key] = _log_probabilities(each)
        return self._scores[key]


class LevelAgreement:
    """``by_depth``: the probability, per depth, that the target's token is among the children at
    all; ``shares``: at which rank it then is. With the default it is the first child or none, so a
    tree is accepted level by level exactly as the dial says, however wide it is."""

    def __init__(self, by_depth: Sequence[float], shares: Sequence[float] = (1.0,)) -> None:
        self._by_depth = _checked(by_depth)
        self._shares = _checked(shares)
        self._up_to = np.cumsum(self._shares)
        self._scores: dict[tuple[int, int], list[float]] = {}

    def rank(self, u: float, depth: int, position: int) -> int:
        """See ``Agreement.rank``."""
        agreement = _at(self._by_depth, depth)
        if u >= agreement:
            return NEVER
        rank = int(np.searchsorted(self._up_to, u / agreement, side="right"))
        return rank if rank < len(self._shares) else NEVER

    def scores(self, branch: int, depth: int, position: int) -> list[float]:
        """As ``GeometricAgreement.scores``."""
        key = branch, min(depth, len(self._by_depth))
        if key not in self._scores:
            agreement = _at(self._by_depth, depth)
            shares = [*self._shares, *(0.0,) * branch][:branch]
            self._scores[key] = _log_probabilities([agreement * share for share in shares])
        return self._scores[key]


@dataclass(frozen=True, slots=True, eq=False)
class TraceAgreement:
    """As a real pair agreed, position by position: ``ranks`` (t,) int16, ``logprobs`` (t, k)
    float32. A text goes around the trace's end. Off the target's path a drafter is as sure of
    itself as on it, and as often right about what the target would say there."""

    ranks: npt.NDArray[np.int16]
    logprobs: FloatArray

    @classmethod
    def load(cls, path: Path) -> "TraceAgreement":
        """What ``python -m benchmarks trace`` recorded. Raises InvalidRequest."""
        try:
            stored = read_arrays(path, ("rank", "logprob"))
            return cls(stored["rank"].astype(np.int16), stored["logprob"].astype(np.float32))
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"{path} is no trace: {error}", field="trace") from error

    def rank(self, u: float, depth: int, position: int) -> int:
        """See ``Agreement.rank``."""
        rank = int(self.ranks[position % len(self.ranks)])
        return rank if rank < self.logprobs.shape[1] else NEVER

    def scores(self, branch: int, depth: int, position: int) -> list[float]:
        """As recorded; children that were not get small ones."""
        recorded: list[float] = self.logprobs[position % len(self.ranks)][:branch].tolist()
        least = min(recorded[-1], math.log(LEAST_PROBABILITY))
        return [*recorded, *(least - rank for rank in range(1, branch - len(recorded) + 1))]


def read_agreement(text: str) -> Agreement:
    """``0.78`` or ``0.8,0.75,0.7`` (by depth), or the path of a trace. Raises InvalidRequest."""
    if text.endswith(".npz"):
        return TraceAgreement.load(Path(text).expanduser())
    try:
        return LevelAgreement([float(part) for part in text.split(",")])
    except ValueError as error:
        message = f"{text!r} is neither probabilities by depth nor a trace: {error}"
        raise InvalidRequest(message, field="agreement") from None


def _log_probabilities(probabilities: Sequence[float]) -> list[float]:
    return [
        math.log(max(probability, LEAST_PROBABILITY * 0.5**rank))
        for rank, probability in enumerate(probabilities)
    ]


def _at(by_depth: Sequence[float], depth: int) -> float:
    return by_depth[min(depth, len(by_depth)) - 1]


def _checked(probabilities: Sequence[float]) -> tuple[float, ...]:
    if not probabilities or not all(0.0 <= one <= 1.0 for one in probabilities):
        raise ValueError("agreement is a probability per depth")
    return tuple(probabilities)
