"""What a comparison's columns are, and the figures of each, from what clients and services say.

Pure: reads no clock and starts nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.asking import Timed
from benchmarks.scrape import Reading
from specedge.tree.token_tree import IntArray

MS_PER_S: Final = 1000.0
CONTROLLER: Final = "controller"
NO_PATHS: Final = np.empty(0, dtype=np.int32)

# Of a verifier.
BUSY_S: Final = "specedge_verifier_busy_seconds_total"
TRIED: Final = "specedge_spec_decode_num_draft_tokens_total"
STEP: Final = "specedge_verify_seconds"
OWN_DRAFTS: Final = "specedge_hosted_draft_seconds"
# Of an edge.
VERDICTS: Final = "specedge_draft_verdicts_total"
HITS: Final = "specedge_draft_hits_total"
REUSED: Final = "specedge_draft_nodes_reused_total"
SAVED: Final = "specedge_draft_passes_saved_total"
REPLY: Final = "specedge_reply_seconds"
DRAFT_S: Final = "specedge_draft_seconds_total"
PASSES: Final = "specedge_draft_passes_total"
AHEAD_USED: Final = "specedge_drafts_ahead_used_total"


class Kind(StrEnum):
    """Who drafts."""

    PLAIN = "plain"  # nobody
    SERVER_ONLY = "server-only"  # the verifier, beside its target
    SPECEDGE = "SpecEdge"  # the edges


@dataclass(frozen=True, slots=True)
class Setting:
    """How much is drafted in a round; a depth of 0 leaves it to the controller."""

    depth: int = 0
    budget: int = 0

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """``4x8``: four levels, eight nodes. Raises ValueError."""
        depth, _, budget = text.partition("x")
        return cls(int(depth), int(budget))

    def __str__(self) -> str:
        """As parsed, or ``controller``."""
        return CONTROLLER if self.is_controller else f"{self.depth}x{self.budget}"

    @property
    def is_controller(self) -> bool:
        """Whether the edge decides for each round."""
        return self.depth == 0


@dataclass(frozen=True, slots=True)
class Column:
    """One system under one load. ``round_trip_ms`` is injected between edges and cloud."""

    kind: Kind
    streams: int
    round_trip_ms: float
    edges: int = 1
    proactive: bool = False
    setting: Setting | None = None

    @property
    def name(self) -> str:
        """Unlike any other column's of a run."""
        streams = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        return f"{self.system}, {streams}, {self.round_trip_ms:g} ms"

    @property
    def system(self) -> str:
        """Without the load."""
        if self.kind is not Kind.SPECEDGE:
            return str(self.kind)
        edges = "1 edge" if self.edges == 1 else f"{self.edges} edges"
        if self.setting is not None and self.setting.is_controller:
            return f"{self.kind} {edges} adaptive"
        return f"{self.kind} {edges} {'proactive' if self.proactive else 'waiting'}"


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What one column's run left behind: the clients' streams, how long all of them took together,
    and what verifier and edges counted meanwhile."""

    timed: Sequence[Timed]
    wall_s: float
    verifier: Reading
    edges: Reading
    load_1min: float

    def __add__(self, later: "Observed") -> "Observed":
        """Two parts of one column's run."""
        return Observed(
            [*self.timed, *later.timed],
            self.wall_s + later.wall_s,
            self.verifier + later.verifier,
            self.edges + later.edges,
            max(self.load_1min, later.load_1min),
        )


@dataclass(frozen=True, slots=True)
class Prefill:
    """What computing the prompts alone costs a verifier: answers of one token each."""

    tokens: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """None where a system has no such thing.

    tokens_per_busy_s     by the time that the verifier's engine computed, prompts and its own
                          drafter included; _decoding: less what the prompts alone cost
    time_per_token_…_ms   after a stream's first piece: of all tokens together, and over streams
    acceptance_length     tokens a verdict commits, the bonus included
    reached               share of the verdicts whose path was at least 1, 2, … long
    nodes, bytes, draft_ms   per round; draft_ms is an edge's, on the way to the draft's departure,
                          or the verifier's own before a step
    hit_rate              share of the verdicts whose bonus the edge had drafted already
    nodes_reused, passes_saved   per round, thanks to proactive drafting
    ahead_rate            share of the verdicts whose next round had been sent ahead
    pass_ms               of the drafter, as long as it takes on the way to a departure
    reply_…_ms            from a verdict's arrival to the next draft's departure
    """

    tokens: int
    wall_s: float
    tokens_per_s: float
    tokens_per_busy_s: float
    tokens_per_busy_s_decoding: float
    busy_share: float
    step_ms: float
    time_per_token_ms: float
    time_per_token_p50_ms: float
    time_per_token_p99_ms: float
    time_to_first_p50_ms: float
    rounds: int
    acceptance_length: float
    reached: tuple[float, ...]
    nodes: float
    bytes: float
    draft_ms: float
    hit_rate: float | None
    nodes_reused: float | None
    passes_saved: float | None
    ahead_rate: float | None
    pass_ms: float | None
    reply_p50_ms: float | None
    reply_p99_ms: float | None
    load_1min: float


def figures_of(seen: Observed, prefill: Prefill) -> Figures:
    """Of one column. Raises ValueError when nothing was generated, or computed."""
    tokens = sum(each.usage.get("completion_tokens", 0) for each in seen.timed)
    if tokens == 0:
        raise ValueError("nothing was generated")
    busy_s = seen.verifier.value(BUSY_S)
    if busy_s <= 0:
        raise ValueError("the verifier counted no busy time")
    rounds = max(1, round(_own(seen.timed, "rounds")))
    tried = seen.verifier.value(TRIED)
    lengths = _path_lengths(seen.timed) if tried else NO_PATHS
    decoding = np.array([each.decoding for each in seen.timed if each.decoding[0]])
    decoded, took_s = decoding.sum(axis=0) if len(decoding) else (1.0, 0.0)
    per_stream_s = decoding[:, 1] / decoding[:, 0] if len(decoding) else np.zeros(1)
    first_s = [each.arrived_s[0] for each in seen.timed if each.arrived_s]
    return Figures(
        tokens=tokens,
        wall_s=seen.wall_s,
        tokens_per_s=tokens / seen.wall_s,
        tokens_per_busy_s=_ratio(tokens, busy_s),
        tokens_per_busy_s_decoding=_ratio(tokens - prefill.tokens, busy_s - prefill.busy_s),
        busy_share=busy_s / seen.wall_s,
        step_ms=_mean_ms(seen.verifier, STEP),
        time_per_token_ms=MS_PER_S * took_s / decoded,
        time_per_token_p50_ms=_percentile_ms(per_stream_s, 50),
        time_per_token_p99_ms=_percentile_ms(per_stream_s, 99),
        time_to_first_p50_ms=_percentile_ms(np.array(first_s), 50),
        rounds=rounds,
        acceptance_length=tokens / rounds,
        reached=tuple(
            float((lengths >= depth).mean()) for depth in range(1, int(lengths.max(initial=0)) + 1)
        ),
        nodes=tried / rounds,
        bytes=(_own(seen.timed, "bytes_up") + _own(seen.timed, "bytes_down")) / rounds,
        draft_ms=_own(seen.timed, "draft_ms") / rounds + _mean_ms(seen.verifier, OWN_DRAFTS),
        load_1min=seen.load_1min,
        **_drafting(seen.edges),
    )


def same_texts(timed: Sequence[Timed], others: Sequence[Timed]) -> int:
    """How many of the answers equal the others', token by token."""
    return sum(one.tokens == other.tokens for one, other in zip(timed, others, strict=True))


_OF_DRAFTING: Final = (
    "hit_rate",
    "nodes_reused",
    "passes_saved",
    "ahead_rate",
    "pass_ms",
    "reply_p50_ms",
    "reply_p99_ms",
)


def _drafting(edges: Reading) -> dict[str, float | None]:
    verdicts = edges.value(VERDICTS)
    if verdicts == 0:
        return dict.fromkeys(_OF_DRAFTING)
    replies = {share: edges.quantile(REPLY, share) for share in (0.5, 0.99)}
    reply_ms = {
        share: None if seconds is None else MS_PER_S * seconds for share, seconds in replies.items()
    }
    return {
        "hit_rate": edges.value(HITS) / verdicts,
        "nodes_reused": edges.value(REUSED) / verdicts,
        "passes_saved": edges.value(SAVED) / verdicts,
        "ahead_rate": edges.value(AHEAD_USED) / verdicts,
        "pass_ms": MS_PER_S * _ratio(edges.value(DRAFT_S), edges.value(PASSES)),
        "reply_p50_ms": reply_ms[0.5],
        "reply_p99_ms": reply_ms[0.99],
    }


def _own(timed: Sequence[Timed], key: str) -> float:
    """A sum of what the answers' own figures say."""
    return sum(float((each.metrics.get("specedge") or {}).get(key) or 0.0) for each in timed)


def _path_lengths(timed: Sequence[Timed]) -> IntArray:
    """(rounds,) of each verdict: its tokens but the bonus. An edge says so of its own drafts; where
    the verifier drafted, each piece of a stream is a verdict, unless its reader was late."""
    counts: Counter[int] = Counter()
    for each in timed:
        speculative = each.metrics.get("speculative_decoding") or {}
        if speculative.get("num_spec_steps"):
            counts.update(dict(enumerate(speculative["acceptance_histogram"])))
        else:
            counts.update(max(len(piece) - 1, 0) for piece in each.pieces)
    return np.repeat(list(counts), list(counts.values())).astype(np.int32)


def _percentile_ms(seconds: npt.NDArray[np.float64], percent: float) -> float:
    return MS_PER_S * float(np.percentile(seconds, percent)) if len(seconds) else 0.0


def _mean_ms(seen: Reading, histogram: str) -> float:
    return MS_PER_S * _ratio(seen.value(f"{histogram}_sum"), seen.value(f"{histogram}_count"))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else 0.0
