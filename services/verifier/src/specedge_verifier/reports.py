"""What the verifier tells schedulers about itself: after each step, and whenever 100 ms would pass
without a word.

Absolute figures, so that a lost report heals with the next; every 100 ms a share of the sessions.
Reads the state of others, owns only the newest steps.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from specedge.clock import Cancellable, Timers
from specedge.ids import VerifierId
from specedge.protocol import subjects
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.codec import encode
from specedge.protocol.messages import Ending
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.reports import AheadReport, SessionReport, Stat, StepReport
from specedge.protocol.step_plan import num_rows
from specedge_verifier.entry import Entry
from specedge_verifier.sessions import SessionTable
from specedge_verifier.slots import SlotPool

PERIOD_S: Final = 0.1
STEPS_REPEATED: Final = 2  # so that a lost report hides no step from the estimator
BEATS_PER_ROUND: Final = 10  # shares in which every session is listed once
MAX_SESSIONS_REPORTED: Final = 400  # a report must fit the broker's message size


@dataclass(frozen=True, slots=True)
class Who:
    """What does not change while a verifier lives. ``incarnation`` is random per process start."""

    verifier: VerifierId
    incarnation: str
    identity: Identity
    limits: Limits
    step_rows: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Rows of the step that runs, 0 if none does, and the seconds computed so far."""

    running_rows: int
    busy_s: float


class Reporter:
    """Builds reports and hands them to ``publish``. ``load`` reads the engine loop."""

    def __init__(
        self,
        who: Who,
        *,
        table: SessionTable,
        pool: SlotPool,
        ledger: BatchLedger,
        clock: Timers,
        load: Callable[[], EngineLoad],
        publish: Callable[[str, bytes], None],
    ) -> None:
        self.is_draining = False
        self._has_left = False
        self._who = who
        self._table = table
        self._pool = pool
        self._ledger = ledger
        self._clock = clock
        self._load = load
        self._publish = publish
        self._seq = 0
        self._steps: deque[StepReport] = deque(maxlen=STEPS_REPEATED)
        self._next: Cancellable | None = None
        self._silent_s = -math.inf  # when the last report will be so old that it is time for one
        self._list_s = -math.inf  # when the next share of the sessions is due
        self._num_listed = 0  # of the sessions, in this round of listing them

    def start(self) -> None:
        """Be silent for no longer than 100 ms from now on."""
        self._beat()

    def close(self) -> None:
        """Send no more. Idempotent."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def after_step(self, step: StepReport) -> None:
        """A step ended, and its verdicts are on their way."""
        self._steps.append(step)
        self.tell()

    def tell(self) -> None:
        """A report out of turn, for what schedulers should know at once."""
        if not self._has_left:
            self._send()

    def bye(self) -> None:
        """The last word: to tell of a step that outlasts the drain would call the verifier back."""
        self.close()
        self._has_left = True
        self._publish(subjects.verifier_bye(self._who.verifier), encode(Ending()))

    def _beat(self) -> None:
        try:
            if self._clock.now_s() >= self._silent_s:
                self._send()
        finally:  # whatever is wrong with one report, a verifier that is silent is taken for dead
            at_s = max(self._silent_s, self._clock.now_s())
            self._next = self._clock.call_at(at_s, self._beat)

    def _sessions(self, now_s: float) -> tuple[SessionReport, ...] | None:
        """A share of them, if one is due."""
        if now_s < self._list_s:
            return None
        self._list_s = now_s + PERIOD_S
        return tuple([_session_report(entry) for entry in self._next_to_list()])

    def _next_to_list(self) -> list[Entry]:
        """A share of the sessions: to list all of them each time would cost every scheduler more
        than their rounds do."""
        entries = self._table.entries
        first = self._num_listed if self._num_listed < len(entries) else 0
        share = min(-(-len(entries) // BEATS_PER_ROUND), MAX_SESSIONS_REPORTED)
        self._num_listed = first + share
        return entries[first : self._num_listed]

    def _send(self) -> None:
        now_s = self._clock.now_s()
        self._silent_s = now_s + PERIOD_S
        wants = [entry.want for entry in self._table.wants.values() if entry.want is not None]
        load = self._load()
        stat = Stat.model_construct(
            inc=self._who.incarnation,
            seq=self._seq,
            identity=self._who.identity,
            limits=self._who.limits,
            slots=(self._pool.num_leased, self._pool.num_slots),
            sessions=self._sessions(now_s),
            epoch=self._ledger.epoch,
            batches=self._ledger.held,
            last=self._ledger.last,
            begun=self._ledger.begun,
            queued=sum(num_rows(want) for want in wants),
            running=load.running_rows,
            step_rows=self._who.step_rows,
            hosted=sum(want.is_hosted for want in wants),
            ahead=tuple(
                AheadReport.model_construct(e=key.edge, s=key.session, rows=rows)
                for key, rows in list(self._table.ahead.items())[:MAX_SESSIONS_REPORTED]
            ),
            busy_s=round(load.busy_s, 4),
            steps=tuple(self._steps),
            draining=self.is_draining,
        )
        self._seq += 1
        self._publish(subjects.verifier_stat(self._who.verifier), encode(stat))


def _session_report(entry: Entry) -> SessionReport:
    return SessionReport.model_construct(
        e=entry.key.edge,
        s=entry.key.session,
        round=entry.machine.last_round,
        state=entry.machine.state.value,
    )
