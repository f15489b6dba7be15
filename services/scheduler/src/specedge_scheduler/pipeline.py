"""What one verifier runs and holds, and when its step ends, as far as reports tell. Pure.

Times are the scheduler's: a step "ends" when its report is here. So everything that a batch needs
on its way, there and back, is one figure, ``trip_s``, and clocks are never compared.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from specedge.ids import SessionKey
from specedge.protocol.messages import Draft
from specedge.protocol.reports import Stat, StepReport
from specedge.protocol.wire_tree import levels_of
from specedge_scheduler.estimator import StepEstimator

FIRST_TRIP_S: Final = 0.003
MAX_TRIP_S: Final = 0.05
TRIPS_KEPT: Final = 64
LEAST_MARGIN_S: Final = 0.0005
MARGIN_ERRORS: Final = 3.0  # of the estimator's usual error


# One is made of every round there is, and a frozen one takes five times as long to make.
@dataclass(slots=True, eq=False)
class PendingDraft:
    """A round that waits here, or is at a verifier; it never changes. Times in the clock's seconds.

    num_nodes  nodes drafted
    committed  tokens committed before its root's successor
    num_rows   rows it adds to a step: the root, what is appended, what is drafted
    context    KV rows that its step attends over
    is_hosted  whether it is a grant, which goes on at the verifier by itself
    most_tokens  it may yield: path and bonus, or all of a grant
    levels     of each node, how many levels it is below the root
    num_levels the most of them
    """

    draft: Draft
    arrived_s: float
    deadline_s: float
    num_nodes: int = field(init=False)
    committed: int = field(init=False)
    num_rows: int = field(init=False)
    context: int = field(init=False)
    is_hosted: bool = field(init=False)
    most_tokens: int = field(init=False)
    levels: list[int] = field(init=False)
    num_levels: int = field(init=False)

    def __post_init__(self) -> None:
        draft = self.draft  # its sizes are asked for often
        num_appended = len(draft.append)
        self.num_nodes = len(draft.token)
        self.committed = draft.base + num_appended
        self.num_rows = 1 + num_appended + self.num_nodes
        self.context = draft.base + self.num_rows
        self.is_hosted = draft.run > 0
        self.levels = levels_of(draft.parent)
        self.num_levels = max(self.levels, default=0)
        self.most_tokens = draft.run or 1 + self.num_levels

    @property
    def order(self) -> tuple[int, int]:
        """Newest wins: the round, then the try."""
        return self.draft.round, self.draft.try_

    def rows_of(self, max_nodes: int) -> int:
        """Rows that it adds with no more than its first ``max_nodes`` nodes."""
        too_many = self.num_nodes - max_nodes
        return self.num_rows - too_many if too_many > 0 else self.num_rows


@dataclass(slots=True, eq=False)
class SentBatch:
    """A batch at a verifier, as far as is known. ``has_begun``: it is in a step; ``context``:
    KV rows that it attends over."""

    items: tuple[tuple[SessionKey, PendingDraft], ...]
    sent_s: float
    num_rows: int
    is_hosted: bool = False
    has_begun: bool = False
    context: int = field(init=False)

    def __post_init__(self) -> None:
        self.context = sum([pending.context for _, pending in self.items])


class Pipeline:
    """The batches sent to a verifier that it has not finished, by number.

    ends_s  when the running step's report is expected; None: nothing runs
    trip_s  from sending a batch until its step's report, less the step and the wait for it: what
            all but the slowest of late took
    """

    def __init__(self) -> None:
        self.estimator = StepEstimator()
        self.sent: dict[int, SentBatch] = {}
        self.ends_s: float | None = None
        self.began_s = 0.0
        self._trips_s: deque[float] = deque(maxlen=TRIPS_KEPT)
        self._slow_trip_s = FIRST_TRIP_S

    @property
    def trip_s(self) -> float:
        """See the class."""
        return self._slow_trip_s

    @property
    def lead_s(self) -> float:
        """How long before a step's report a batch must leave, not to come too late."""
        margin_s = MARGIN_ERRORS * self.estimator.error_ms / 1000
        step_s = 0.0 if self.ends_s is None else self.ends_s - self.began_s
        return self.trip_s + max(LEAST_MARGIN_S, min(margin_s, 0.2 * step_s))

    @property
    def num_rows(self) -> int:
        """Rows that run or wait there."""
        return sum(batch.num_rows for batch in self.sent.values())

    @property
    def staged(self) -> tuple[int, int, int]:
        """(rounds, rows, KV rows) of edges that wait there for the next step."""
        waiting = [one for one in self.sent.values() if not one.has_begun and not one.is_hosted]
        return (
            sum([len(one.items) for one in waiting]),
            sum([one.num_rows for one in waiting]),
            sum([one.context for one in waiting]),
        )

    def note_sent(self, seq: int, batch: SentBatch, now_s: float) -> None:
        """A batch leaves. If nothing runs there, it is the next step."""
        self.sent[seq] = batch
        if self.ends_s is None:
            batch.has_begun = True
            self.began_s = now_s + self.trip_s
            self.ends_s = self.began_s + self._predict_s(0)

    def note_stat(self, stat: Stat, is_ours: bool, now_s: float) -> list[SentBatch]:
        """A report came; ``is_ours``: it speaks of this term's batches. The batches it says are
        finished."""
        new = [step for step in stat.steps if self.estimator.observe(step)]
        finished: list[SentBatch] = []
        if is_ours:
            held = set(stat.batches)
            done = [seq for seq in self.sent if seq <= stat.last and seq not in held]
            finished = [self.sent.pop(seq) for seq in done]
            if len(new) == 1:
                self._learn_trip(new[0], finished, now_s)
            for seq, batch in self.sent.items():
                batch.has_begun = batch.has_begun or seq <= stat.begun
        self._predict_end(stat, bool(new), bool(finished), now_s)
        return finished

    def _predict_end(self, stat: Stat, has_ended: bool, has_finished: bool, now_s: float) -> None:
        if stat.running > 0:
            if has_ended or self.ends_s is None:
                self.began_s = now_s
            # A heartbeat between a step's end and its verdicts still lists the batch that was in
            # it: when that is finished, the step that runs is known better.
            if has_ended or has_finished or self.ends_s is None:
                step_s = self._predict_s(stat.running, _own_rows(stat))
                self.ends_s = self.began_s + _own_draft_s(stat) + step_s
            return
        coming = [batch for batch in self.sent.values() if not batch.is_hosted]
        if not coming:
            self.ends_s = None
        elif has_ended or self.ends_s is None:
            for batch in coming:
                batch.has_begun = True
            self.began_s = max(now_s, min(batch.sent_s for batch in coming) + self.trip_s)
            self.ends_s = self.began_s + self._predict_s(0)

    def _predict_s(self, running_rows: int, own_rows: int = 0) -> float:
        """Of the step with what has begun, and what else runs there."""
        rows = context = 0
        for batch in self.sent.values():
            if batch.has_begun:
                rows += batch.num_rows
                context += batch.context
        prefill = max(0, running_rows - rows - own_rows)
        rows += min(own_rows, max(0, running_rows - rows))
        return self.estimator.predict_ms(rows, context, prefill) / 1000

    def _learn_trip(self, step: StepReport, finished: list[SentBatch], now_s: float) -> None:
        """The batch that left last was the last to arrive: it had waited ``slack_ms``."""
        sent_s = max((one.sent_s for one in finished if not one.is_hosted), default=None)
        if sent_s is None:
            return
        spent_ms = step.ms + step.draft_ms + step.slack_ms
        self._trips_s.append(min(max(0.0, now_s - sent_s - spent_ms / 1000), MAX_TRIP_S))
        # All but the one slowest of the last few dozen.
        slow_s = sorted(self._trips_s)
        self._slow_trip_s = slow_s[-2] if len(slow_s) > 1 else max(slow_s[0], FIRST_TRIP_S)


def _own_draft_s(stat: Stat) -> float:
    """How long the verifier drafts for its hosted sessions before a step, most likely: as long as
    before the last one."""
    return stat.steps[-1].draft_ms / 1000 if stat.steps else 0.0


def _own_rows(stat: Stat) -> int:
    """Rows that no batch brought, most likely: hosted ones, as in the last step, and those of
    drafts that were sent ahead."""
    hosted = stat.steps[-1].hosted if stat.steps else 0
    return hosted + sum(one.rows for one in stat.ahead)
