"""What a fleet measured: what happened to its sessions inside the measured time. Counts only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from specedge.drafting.counts import DraftCounts
from specedge.protocol.effects import Committed
from specedge_edge.account import Account

MAX_DEPTH: Final = 64
MS_PER_S: Final = 1e3


@dataclass(slots=True)
class SessionSpan:
    """Of one session, the part that was measured."""

    first_s: float | None = None
    last_s: float = 0.0
    num_tokens: int = 0

    @property
    def token_ms(self) -> float | None:
        """Mean time of a token after the first round's; None for too few."""
        if self.first_s is None or self.num_tokens < 8:
            return None
        return (self.last_s - self.first_s) / self.num_tokens * MS_PER_S


class MeasuredDrafting:
    """Of one session's drafting, what came after ``begin``; all of it if the session is younger.
    ``so_far``: its counts at any moment."""

    def __init__(self, account: Account, so_far: Callable[[], DraftCounts]) -> None:
        self._account = account
        self._so_far = so_far
        self._before = DraftCounts()
        self._num_replies = 0

    def begin(self) -> None:
        """From now on."""
        self._before = self._so_far()
        self._num_replies = len(self._account.reply_ms)

    @property
    def counts(self) -> DraftCounts:
        """Once the session is over."""
        counts, before = asdict(self._account.drafting), asdict(self._before)
        return DraftCounts(**{name: counts[name] - before[name] for name in counts})

    @property
    def reply_ms(self) -> list[float]:
        """Of the drafts that left."""
        return self._account.reply_ms[self._num_replies :]


@dataclass(slots=True)
class FleetLog:
    """Written by all sessions of one process, on its loop. Nothing counts before ``begin``."""

    begun_s: float | None = None
    num_tokens: int = 0
    num_rounds: int = 0
    num_trees: int = 0
    num_nodes: int = 0
    num_ended: int = 0
    num_failed: int = 0
    reached: list[int] = field(default_factory=lambda: [0] * (MAX_DEPTH + 1))
    queue_ms: float = 0.0
    step_ms: float = 0.0
    trip_ms: float = 0.0
    num_trips: int = 0
    first_token_ms: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)
    reply_ms: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    drafting: DraftCounts = field(default_factory=DraftCounts)

    def begin(self, now_s: float) -> None:
        """From now on."""
        self.begun_s = now_s

    @property
    def is_measuring(self) -> bool:
        """Whether things count."""
        return self.begun_s is not None

    def note_round(self, committed: Committed) -> None:
        """A verdict came."""
        timing = committed.verdict.timing
        self.num_rounds += 1
        self.num_tokens += len(committed.tokens)
        self.queue_ms += timing.held + timing.queue
        self.step_ms += timing.step
        if committed.round_trip_s is not None:
            self.num_trips += 1
            self.trip_ms += committed.round_trip_s * MS_PER_S
        if committed.was_tree:
            self.num_trees += 1
            self.num_nodes += committed.verdict.kept
        for depth in range(min(len(committed.tokens), MAX_DEPTH + 1)):
            self.reached[depth] += 1

    def note_failure(self, reason: str) -> None:
        """A session ended with an error, a refusal included."""
        self.num_failed += 1
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def summary(self, wall_s: float) -> dict[str, object]:
        """All of it, ready for JSON. ``reached``: rounds whose accepted path was at least so
        long."""
        rounds, trips = max(1, self.num_rounds), max(1, self.num_trips)
        deepest = max((d for d, count in enumerate(self.reached) if count), default=0)
        counts = self.drafting
        return {
            "wall_s": wall_s,
            "tokens": self.num_tokens,
            "rounds": self.num_rounds,
            "trees": self.num_trees,
            "nodes_per_tree": self.num_nodes / max(1, self.num_trees),
            "tokens_per_round": self.num_tokens / rounds,
            "reached": [count / rounds for count in self.reached[: deepest + 1]],
            "sessions_ended": self.num_ended,
            "sessions_failed": self.num_failed,
            "errors": self.errors,
            "queue_ms": self.queue_ms / rounds,
            "step_ms": self.step_ms / rounds,
            "trip_ms": self.trip_ms / trips,
            "token_ms": quantiles(self.token_ms),
            "first_token_ms": quantiles(self.first_token_ms),
            "reply_ms": quantiles(self.reply_ms),
            "hit_rate": counts.hits / max(1, counts.verdicts),
            "passes_per_round": counts.passes / max(1, counts.verdicts),
            "passes_ahead_per_round": counts.passes_ahead / max(1, counts.verdicts),
            "passes_saved_per_round": counts.passes_saved / max(1, counts.verdicts),
            "nodes_reused_per_round": counts.nodes_reused / max(1, counts.verdicts),
        }


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, p50, p90 and p99 (nearest rank); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    mean = sum(ordered) / len(ordered)
    return {"mean": mean, "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "count": len(ordered)}
