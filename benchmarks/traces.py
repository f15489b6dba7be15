"""A recorded trace of a drafter beside a target, and engines that replay it.

A trace says, position by position of texts that the target wrote, at which rank the drafter
proposed the target's token, and how it scored its proposals. Replayed, every tree, depth and
timing meets the same text, so settings can be compared without noise and without the models.
Off the target's path a drafter is as sure of itself as elsewhere: there a position takes the
scores of another one, and none of the proposals is right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.engine.ports import Expansion
from specedge.errors import ProtocolViolation
from specedge.params import SamplingParams
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import BoolArray, FloatArray, IntArray, TokenTree

TRACES: Final = Path(__file__).parent / "traces"
VOCAB_SIZE: Final = 1 << 20
_STRIDE: Final = 7919  # a prime: where a position off the path takes its scores from
_HALF: Final = VOCAB_SIZE // 2


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """t positions, k proposals at each.

    rank     (t,) int16  of the target's token among the proposals; k or more: it was not there
    logprob  (t, k) float32  the drafter's scores, falling
    source   which models, and how it was made
    """

    rank: npt.NDArray[np.int16]
    logprob: FloatArray
    source: str

    def __len__(self) -> int:
        """Positions."""
        return len(self.rank)

    @property
    def top_1(self) -> float:
        """Share of positions where the drafter's first proposal is the target's token."""
        return float((self.rank == 0).mean())

    def save(self, path: Path) -> None:
        """Some twenty bytes a position."""
        path.parent.mkdir(parents=True, exist_ok=True)
        logprob = self.logprob.astype(np.float16)
        np.savez_compressed(path, rank=self.rank, logprob=logprob, source=np.array(self.source))

    @classmethod
    def load(cls, path: Path) -> "Trace":
        """What ``save`` wrote."""
        with np.load(path) as stored:
            logprob = stored["logprob"].astype(np.float32)
            return cls(stored["rank"], logprob, str(stored["source"]))


def synthetic_trace(
    num_positions: int = 4096,
    *,
    first: float = 0.43,
    agreement: float = 0.85,
    branch: int = 8,
    persistence: float = 0.9,
    seed: int = 0,
) -> Trace:
    """A trace of no drafter: right at first guess with probability ``first`` on average, in easy
    and hard stretches of about 1 / (1 - ``persistence``) positions."""
    random = np.random.default_rng(seed)
    ease, shock = 0.0, np.sqrt(1 - persistence**2)
    centre = np.log(first / (1 - first)) - 0.45
    rank = np.empty(num_positions, dtype=np.int16)
    logprob = np.empty((num_positions, branch), dtype=np.float32)
    for position in range(num_positions):
        ease = persistence * ease + shock * random.standard_normal()
        top = 1 / (1 + np.exp(-(centre + 0.8 * ease + 1.8 * random.standard_normal())))
        share = random.uniform(0.35, 0.6)
        mass = (1 - top) * share * (1 - share) ** np.arange(branch)
        probability = -np.sort(-np.array([top, *mass[: branch - 1]]))
        logprob[position] = np.log(np.maximum(probability, 1e-6))
        rank[position] = np.searchsorted(np.cumsum(probability), random.random() / agreement)
    return Trace(rank, logprob, f"synthetic: first guess right at {first:g}, seed {seed}")


@dataclass(frozen=True, slots=True, eq=False)
class TraceText:
    """The text of a trace, from ``offset`` on and around its end: any ids, all distinct from what
    is proposed in their place."""

    trace: Trace
    offset: int = 0

    def row(self, position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows of the trace for text positions."""
        rows: npt.NDArray[np.int64] = (position + self.offset) % len(self.trace)
        return rows

    def tokens(self, position: npt.NDArray[np.int64]) -> IntArray:
        """The target's tokens there: even ids."""
        token: IntArray = (2 * ((position * 48271 + 11) % _HALF)).astype(np.int32)
        return token

    def wrong(self, position: npt.NDArray[np.int64], branch: int) -> IntArray:
        """(m, branch) int32 distinct tokens that the target never says: odd ids."""
        at = (position[:, None] * 69621 + np.arange(branch)) % _HALF
        token: IntArray = (2 * at + 1).astype(np.int32)
        return token


class TraceDrafter:
    """``Drafter`` that replays a trace; ``sleep`` gets the seconds of each pass:
    ``pass_ms`` + ``row_ms`` for every node expanded."""

    def __init__(
        self,
        text: TraceText,
        sleep: Callable[[float], None],
        *,
        pass_ms: float,
        row_ms: float = 0.0,
    ) -> None:
        self.text = text
        self._sleep = sleep
        self._pass_ms = pass_ms
        self._row_ms = row_ms

    @property
    def name(self) -> str:
        """``trace``."""
        return "trace"

    def open(self, committed: IntArray, params: SamplingParams) -> "TraceSession":
        """See ``Drafter.open``; never Busy."""
        return TraceSession(self, len(committed))

    def spend(self, num_rows: int) -> None:
        """Take the time of a pass."""
        self._sleep((self._pass_ms + self._row_ms * num_rows) / 1e3)


class TraceSession:
    """``base`` tokens are committed, the root being the last."""

    def __init__(self, drafter: TraceDrafter, base: int) -> None:
        self._drafter = drafter
        self._base = base

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """See ``DraftSession.expand``."""
        text = self._drafter.text
        is_right = _on_path(tree, text, self._base)[nodes]
        position = self._base + tree.depth[nodes].astype(np.int64)  # of the children
        elsewhere = position * _STRIDE + tree.token[nodes]
        rows = text.row(np.where(is_right, position, elsewhere))
        logprob = text.trace.logprob[rows]
        token = text.wrong(elsewhere, logprob.shape[1])
        rank = text.trace.rank[rows]
        hit = np.flatnonzero(is_right & (rank < logprob.shape[1]))
        token[hit, rank[hit]] = text.tokens(position[hit])
        self._drafter.spend(len(nodes))
        return Expansion(token, logprob)

    def reroot(self, rerooting: Rerooting) -> None:
        """See ``DraftSession.reroot``."""
        if len(rerooting.committed) == 0:
            raise ProtocolViolation("a verdict commits at least the bonus token")
        self._base += len(rerooting.committed)

    def close(self) -> None:
        """See ``DraftSession.close``."""


def _on_path(tree: TokenTree, text: TraceText, base: int) -> BoolArray:
    """Which nodes spell the target's text: (n,) bool. The root, at position base - 1, does."""
    right: BoolArray = tree.token == text.tokens(base - 1 + tree.depth.astype(np.int64))
    right[0] = True
    for depth in range(1, int(tree.depth.max()) + 1):
        level = np.flatnonzero(tree.depth == depth)
        right[level] &= right[tree.parent[level]]
    return right
