"""What one generation cost and where its time went. Filled by the generation that owns it.

Knows nothing of HTTP or Prometheus: both read the finished figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from specedge.drafting.counts import DraftCounts
from specedge.protocol.effects import Committed
from specedge_edge.proposer import ProposerFigures

MS_PER_S = 1000.0


@dataclass(slots=True)
class Account:
    """Written by one generation's task only; times in the service's monotonic seconds.

    num_spec_tokens   the deepest path a draft of this request may hold
    bytes_up          payload of drafts sent      bytes_down     of everything received
    context_bytes     payload of the opening and of context chunks, sent once unless resynced
    num_trips         rounds whose round trip was measured: ``network_ms`` is of these
    gaps_s            per verdict after the first: seconds since the one before
    accepted_counts   per verdict on a tree with nodes: how many of them were accepted
    drafted_counts    per verdict on a tree with nodes: how many of them were tried
    reply_ms          per drafted round but the first: from a verdict's arrival to the departure of
                      the draft that follows upon it
    ahead_sent        messages with what was drafted beyond a round, before its verdict
    ahead_used        those that a verdict led into: the next round began without a draft
    drafting          what the drafter did; known when the generation is over
    saved_ms          time of passes that were not on the reply path, since they had been run ahead
    """

    started_s: float
    num_spec_tokens: int = 0
    first_token_s: float | None = None
    last_token_s: float | None = None
    num_tokens: int = 0
    rounds: int = 0
    hosted_tokens: int = 0
    retries: int = 0
    resyncs: int = 0
    ahead_sent: int = 0
    ahead_used: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    context_bytes: int = 0
    draft_ms: float = 0.0
    network_ms: float = 0.0
    queue_ms: float = 0.0
    verify_ms: float = 0.0
    first_queue_ms: float | None = None
    verifier_id: str = ""
    num_trips: int = 0
    gaps_s: list[float] = field(default_factory=list)
    accepted_counts: list[int] = field(default_factory=list)
    drafted_counts: list[int] = field(default_factory=list)
    reply_ms: list[float] = field(default_factory=list)
    drafting: DraftCounts = field(default_factory=DraftCounts)
    saved_ms: float = 0.0

    def on_drafting_over(self, figures: ProposerFigures) -> None:
        """Nothing more will be drafted."""
        self.drafting, self.saved_ms = figures.counts, figures.saved_ms

    def reply_percentile_ms(self, percent: float) -> float | None:
        """``reply_ms`` at a percentile (nearest rank); None if no draft followed upon a verdict."""
        ordered = sorted(self.reply_ms)
        if not ordered:
            return None
        return ordered[min(len(ordered) - 1, math.ceil(percent / 100 * len(ordered)) - 1)]

    def on_committed(self, committed: Committed, now_s: float) -> None:
        """A verdict came."""
        timing = committed.verdict.timing
        queue_ms = timing.held + timing.queue
        self.rounds += 1
        self.verifier_id = committed.verdict.at or self.verifier_id
        self.queue_ms += queue_ms
        self.verify_ms += timing.step
        self.ahead_used += committed.next_tree is not None
        if self.first_queue_ms is None:
            self.first_queue_ms = queue_ms
        if committed.round_trip_s is not None:
            round_trip_ms = committed.round_trip_s * MS_PER_S
            self.network_ms += max(0.0, round_trip_ms - timing.cloud_ms)
            self.num_trips += 1
        if not committed.was_tree:
            self.hosted_tokens += len(committed.tokens)
        elif committed.verdict.kept:
            self.accepted_counts.append(len(committed.tokens) - 1)
            self.drafted_counts.append(committed.verdict.kept)
        if self.first_token_s is None:
            self.first_token_s = now_s
        else:
            assert self.last_token_s is not None
            self.gaps_s.append(now_s - self.last_token_s)
        self.last_token_s = now_s

    @property
    def num_accepted(self) -> int:
        """Drafted nodes that were accepted."""
        return sum(self.accepted_counts)

    @property
    def num_drafted(self) -> int:
        """Drafted nodes that were tried."""
        return sum(self.drafted_counts)

    @property
    def time_to_first_token_s(self) -> float | None:
        """From the request to its first token; None if there was none."""
        return None if self.first_token_s is None else self.first_token_s - self.started_s

    @property
    def decode_s(self) -> float:
        """From the first to the last token."""
        if self.first_token_s is None or self.last_token_s is None:
            return 0.0
        return self.last_token_s - self.first_token_s

    @property
    def generation_s(self) -> float:
        """From the request to its last token."""
        return 0.0 if self.last_token_s is None else self.last_token_s - self.started_s

    @property
    def time_per_token_s(self) -> float | None:
        """Mean time between tokens after the first; None for fewer than two."""
        return self.decode_s / (self.num_tokens - 1) if self.num_tokens > 1 else None


def merge(accounts: Sequence[Account]) -> Account:
    """One account of several generations that ran side by side: counts add up, times span all."""
    if len(accounts) == 1:
        return accounts[0]
    firsts = [a.first_token_s for a in accounts if a.first_token_s is not None]
    lasts = [a.last_token_s for a in accounts if a.last_token_s is not None]
    queued = [a.first_queue_ms for a in accounts if a.first_queue_ms is not None]
    total = Account(
        started_s=min(a.started_s for a in accounts),
        num_spec_tokens=max(a.num_spec_tokens for a in accounts),
        first_token_s=min(firsts, default=None),
        last_token_s=max(lasts, default=None),
        first_queue_ms=min(queued, default=None),
        verifier_id=next((a.verifier_id for a in accounts if a.verifier_id), ""),
    )
    for name in _SUMMED:
        setattr(total, name, sum(getattr(a, name) for a in accounts))
    for account in accounts:
        total.accepted_counts += account.accepted_counts
        total.drafted_counts += account.drafted_counts
        total.gaps_s += account.gaps_s
        total.reply_ms += account.reply_ms
        total.drafting += account.drafting
    return total


_SUMMED = (
    "num_tokens",
    "rounds",
    "hosted_tokens",
    "retries",
    "resyncs",
    "ahead_sent",
    "ahead_used",
    "num_trips",
    "bytes_up",
    "bytes_down",
    "context_bytes",
    "draft_ms",
    "network_ms",
    "queue_ms",
    "verify_ms",
    "saved_ms",
)
