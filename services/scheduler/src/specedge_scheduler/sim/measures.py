"""What a simulated world yields: counted while it runs, summed up when it ends. Pure.

Only what happens after the warm-up counts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np

from specedge.ids import SessionKey
from specedge.protocol.effects import Ended
from specedge.protocol.messages import Verdict
from specedge.protocol.opening import Opened, Refused
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.scenario import EdgeSpec, Scenario
from specedge_scheduler.sim.verifier_steps import VerifierTally

SECONDS_PER_HOUR: Final = 3600.0
LEAST_ROUNDS: Final = 32  # of a session whose pace says something: fewer are its text's luck


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """Of one kind of edge. Percentiles are over sessions, each its own mean over its rounds."""

    tokens_per_s: float
    sessions: int
    ms_per_token_mean: float
    ms_per_token_p50: float
    ms_per_token_p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """A run in numbers.

    tokens_per_s         of all edges
    expected_tokens_per_s  the same, if each round yielded what its levels yield on average: what
                         is left when the texts' luck is taken out
    tokens_per_busy_s    per second that verifiers computed
    busy_share           of the verifiers' time
    gap_p99_ms           between two steps with work on either side
    rounds_per_step, rows_per_step   how full batches were
    tokens_per_round     accepted and bonus
    ms_per_token_…       over sessions, each its own mean
    held_ms              how long rounds waited at the scheduler
    hit_share            of the bets of edges that draft ahead
    usd_per_million      tokens, verifiers' and edges' devices charged
    refused, refused_ms, retry_ms   openings refused, how soon, and what they were told to wait
    """

    tokens_per_s: float
    expected_tokens_per_s: float
    tokens_per_busy_s: float
    busy_share: float
    gap_p99_ms: float
    rounds_per_step: float
    rows_per_step: float
    tokens_per_round: float
    nodes_per_round: float
    ms_per_token_mean: float
    ms_per_token_p50: float
    ms_per_token_p99: float
    held_ms: float
    hit_share: float
    usd_per_million: float
    sessions: int
    finished: int
    failed: int
    admitted: int
    refused: int
    refused_ms: float
    retry_ms: float
    estimate_error: float
    groups: dict[str, GroupFigures] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(slots=True)
class _Pace:
    """Of one session: all its tokens and rounds, and of those with a round before them, which alone
    say how long a round takes, the tokens, the rounds and the time."""

    group: str
    tokens: int = 0
    rounds: int = 0
    paced_tokens: int = 0
    paced_rounds: int = 0
    seconds: float = 0.0


class Measures:
    """Counts. Edges and the world tell it; nobody reads it before ``sum_up``."""

    def __init__(self, time: VirtualTime, since_s: float) -> None:
        self._time = time
        self._since_s = since_s
        self._paces: dict[SessionKey, _Pace] = {}
        self._num_nodes = 0
        self._num_expected = 0.0
        self._held_ms = 0.0
        self._bets: Counter[bool] = Counter()
        self._ends: Counter[str] = Counter()
        self._num_admitted = 0
        self._refused_s: list[float] = []
        self._retry_ms: list[float] = []

    @property
    def _counts(self) -> bool:
        return self._time.now_s >= self._since_s

    def note_tokens(
        self, spec: EdgeSpec, key: SessionKey, num: int, seconds: float | None, verdict: Verdict
    ) -> None:
        """A verdict came ``seconds`` after the one before it; None: it is the session's first."""
        if not self._counts:
            return
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = _Pace(spec.name)
        pace.tokens += num
        pace.rounds += 1
        if seconds is not None:
            pace.paced_tokens += num
            pace.paced_rounds += 1
            pace.seconds += seconds
        self._num_nodes += verdict.kept
        self._held_ms += verdict.timing.held

    def note_judged(self, expected_tokens: float) -> None:
        """A round was verified that yields so much on average."""
        if self._counts:
            self._num_expected += expected_tokens

    def note_bet(self, is_hit: bool) -> None:
        """A verdict came that could have been prepared."""
        if self._counts:
            self._bets[is_hit] += 1

    def note_open(self, waited_s: float, reply: Opened | Refused) -> None:
        """An opening was answered."""
        if not self._counts:
            return
        if isinstance(reply, Refused):
            self._refused_s.append(waited_s)
            self._retry_ms.append(reply.retry_ms or 0)
        else:
            self._num_admitted += 1

    def note_session(self, _spec: EdgeSpec, _tokens: int, _seconds: float, ended: Ended) -> None:
        """A session ended."""
        if self._counts:
            self._ends["failed" if ended.error is not None else "finished"] += 1

    def sum_up(
        self,
        scenario: Scenario,
        tallies: Sequence[VerifierTally],
        estimate_error: float,
        reasons: dict[str, int],
    ) -> Figures:
        """The figures, once the world has stopped. The tallies are those after the warm-up: one for
        each life of a verifier."""
        seconds = scenario.duration_s - self._since_s
        tokens = sum(pace.tokens for pace in self._paces.values())
        rounds = sum(pace.rounds for pace in self._paces.values())
        busy_s = sum(tally.busy_s for tally in tallies)
        num_verifiers = sum(spec.count for spec in scenario.verifiers)
        steps = sum(tally.num_steps for tally in tallies)
        gaps_s = [gap for tally in tallies for gap in tally.gaps_s or ()]
        everybody = _group(list(self._paces.values()), seconds)
        # Of those too that got no token, in the scenario's order.
        groups: dict[str, list[_Pace]] = {spec.name: [] for spec in scenario.edges}
        for pace in self._paces.values():
            groups[pace.group].append(pace)
        return Figures(
            tokens_per_s=tokens / seconds,
            expected_tokens_per_s=self._num_expected / seconds,
            tokens_per_busy_s=_ratio(tokens, busy_s),
            busy_share=busy_s / (seconds * num_verifiers),
            gap_p99_ms=1000 * _percentile(gaps_s, 99),
            rounds_per_step=_ratio(sum(tally.num_rounds for tally in tallies), steps),
            rows_per_step=_ratio(sum(tally.num_rows for tally in tallies), steps),
            tokens_per_round=_ratio(tokens, rounds),
            nodes_per_round=_ratio(self._num_nodes, rounds),
            ms_per_token_mean=everybody.ms_per_token_mean,
            ms_per_token_p50=everybody.ms_per_token_p50,
            ms_per_token_p99=everybody.ms_per_token_p99,
            held_ms=_ratio(self._held_ms, rounds),
            hit_share=_ratio(self._bets[True], self._bets.total()),
            usd_per_million=_ratio(_usd_per_s(scenario) * 1e6, tokens / seconds),
            sessions=len(self._paces),
            finished=self._ends["finished"],
            failed=self._ends["failed"],
            admitted=self._num_admitted,
            refused=len(self._refused_s),
            refused_ms=1000 * _percentile(self._refused_s, 99),
            retry_ms=_percentile(self._retry_ms, 50),
            estimate_error=estimate_error,
            groups={name: _group(paces, seconds) for name, paces in groups.items()},
            reasons=reasons,
        )


def _group(paces: Sequence[_Pace], seconds: float) -> GroupFigures:
    paced = [pace for pace in paces if pace.paced_tokens]
    long = [pace for pace in paced if pace.paced_rounds >= LEAST_ROUNDS]
    ms = [1000 * pace.seconds / pace.paced_tokens for pace in long or paced]
    return GroupFigures(
        tokens_per_s=sum(pace.tokens for pace in paces) / seconds,
        sessions=len(paces),
        ms_per_token_mean=_ratio(
            1000 * sum(pace.seconds for pace in paced), sum(pace.paced_tokens for pace in paced)
        ),
        ms_per_token_p50=_percentile(ms, 50),
        ms_per_token_p99=_percentile(ms, 99),
    )


def _usd_per_s(scenario: Scenario) -> float:
    verifiers = sum(spec.count * spec.profile.usd_per_hour for spec in scenario.verifiers)
    edges = sum(spec.count * spec.usd_per_hour for spec in scenario.edges)
    return (verifiers + edges) / SECONDS_PER_HOUR


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
