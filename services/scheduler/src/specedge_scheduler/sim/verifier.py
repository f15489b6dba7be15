"""A verifier in virtual time: the real session machines, and a device whose steps only take time.

Forms steps as the service does: rounds in order of their asking, prefill in what is left; tells
the scheduler as much as the service would. Knows nothing of links but ``say`` and ``report``.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from specedge.ids import SessionKey, VerifierId
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.codec import decode_context
from specedge.protocol.messages import Batch, DownMessage
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.reports import Stat, StepReport
from specedge.protocol.verifier_effects import ContextArrived, Stepped, WorkArrived
from specedge.protocol.verifier_session import VerifierSession
from specedge_scheduler.sim.drafts import VOCABULARY, line_choice, num_levels
from specedge_scheduler.sim.draws import Stream
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.scenario import VerifierSpec
from specedge_scheduler.sim.verifier_sessions import SessionTable
from specedge_scheduler.sim.verifier_steps import Step, StepPart, VerifierTally, form_step

HEARTBEAT_S: Final = 0.1
STEPS_REPEATED: Final = 2
IDENTITY: Final = Identity(
    model="emulated", weights="aa", tokenizer="bb", vocab_size=VOCABULARY, max_context=1 << 20
)
LIMITS: Final = Limits(nodes=1023, append=64, context=1 << 20, grant=256)
NOTHING: Final = Step()

# How far a draft is right: (session, base, its levels) → levels.
Judge = Callable[[SessionKey, int, int], int]


@dataclass(frozen=True, slots=True)
class VerifierPorts:
    """What a verifier meets: time, the text's judge, edges and schedulers; ``host`` draws what its
    own software takes."""

    time: VirtualTime
    judge: Judge
    say: Callable[[SessionKey, DownMessage], None]
    report: Callable[[VerifierId, Stat], None]
    host: Stream


class SimVerifier:
    """One verifier's life from its start to its death; ``is_dead`` ends it."""

    def __init__(
        self, name: VerifierId, incarnation: int, spec: VerifierSpec, ports: VerifierPorts
    ) -> None:
        self.name = name
        self.is_dead = False
        self.tally = VerifierTally(gaps_s=[])
        self._incarnation = f"{incarnation}"
        self._profile = spec.profile
        self._step_rows = spec.step_rows
        self._overhead_s = spec.overhead_ms / 1000
        self._answer_ms = spec.answer_ms
        self._host = ports.host
        self._time = ports.time
        self._judge = ports.judge
        self._report = ports.report
        self._ledger = BatchLedger()
        self._sessions = SessionTable(
            lambda key: VerifierSession(key, LIMITS, IDENTITY, name),
            self._ledger,
            spec.slots,
            ports.time,
            ports.say,
        )
        self._running = NOTHING
        self._is_stepping = False
        self._wakes = False
        self._ended_s: float | None = None
        self._seq = 0
        self._silent_s = 0.0  # when it would have been silent for too long
        self._steps: deque[StepReport] = deque(maxlen=STEPS_REPEATED)
        self._num_steps = 0

    def start(self) -> None:
        """Report from now on."""
        self._beat()

    # ------------------------------------------------------------ what comes in

    def on_batch(self, batch: Batch) -> None:
        """Work, in order."""
        if self.is_dead or not self._ledger.admit(batch):
            return
        now_s = self._time.now_s
        for item in batch.items:
            key = SessionKey(item.e, item.s)  # type: ignore[arg-type]
            work = WorkArrived(item, now_s + item.budget_ms / 1000)
            self._sessions.work(key, batch.seq, work)
        self._wake()

    def on_context(self, key: SessionKey, payload: bytes) -> None:
        """A chunk as the edge sent it."""
        if not self.is_dead:
            header, ids = decode_context(payload, VOCABULARY)
            self._sessions.feed(key, ContextArrived(header, ids))
            self._wake()

    def on_ending(self, key: SessionKey) -> None:
        """Cancelled or closed."""
        if not self.is_dead:
            self._sessions.end(key)

    def die(self) -> None:
        """Without a word; what is on its way to it or in it is lost."""
        self.is_dead = True
        self._sessions.lose_all()

    # ------------------------------------------------------------ steps

    def _wake(self) -> None:
        """Begin a step once everything that arrives at this moment is here."""
        if not self._is_stepping and not self._wakes and self._sessions.wants:
            self._wakes = True
            self._time.call_at(self._time.now_s, self._begin)

    def _begin(self) -> None:
        self._wakes = False
        sessions, now_s = self._sessions, self._time.now_s
        if self.is_dead or self._is_stepping or not sessions.wants:
            return
        step = form_step(sessions.wants, sessions.asked_s, self._step_rows, now_s)
        for part in step.parts:
            sessions.begin(part)
        self._running, self._is_stepping = step, True
        if self._ended_s is not None and self.tally.gaps_s is not None:
            self.tally.gaps_s.append(now_s - self._ended_s)
        ms = step.ms_on(self._profile)
        self._time.call_at(now_s + ms / 1000, self._end, ms)

    def _end(self, ms: float) -> None:
        if self.is_dead:
            return
        step, self._running = self._running, NOTHING
        self._is_stepping = False
        self._ended_s = self._time.now_s
        self._note(step, ms)
        rows = step.rows
        for part in step.parts:
            if not part.is_round:
                self._sessions.feed(part.key, Stepped(None, step_ms=ms, step_rows=rows))
        if self._sessions.wants:
            self._wakes = True
            self._time.call_at(self._time.now_s + self._overhead_s, self._begin)
        # As the service does: the next step begins, then verdicts go out, then the report.
        answered_s = self._time.now_s + self._host.host_s(self._answer_ms)
        self._time.call_at(answered_s, self._finish, step, ms)

    def _finish(self, step: Step, ms: float) -> None:
        if self.is_dead:
            return
        rows = step.rows
        for part in step.parts:
            if part.is_round:
                self._answer(part, ms, rows)
        self._tell()
        self._wake()

    def _answer(self, part: StepPart, ms: float, rows: int) -> None:
        tree = part.want.tree
        assert tree is not None
        base = part.want.start + len(part.want.chain)
        choice = line_choice(tree, self._judge(part.key, base, num_levels(tree)))
        stepped = Stepped(choice, queue_ms=part.queue_ms, step_ms=ms, step_rows=rows)
        self._sessions.feed(part.key, stepped)

    def _note(self, step: Step, ms: float) -> None:
        self.tally.note(step, ms)
        self._steps.append(step.report(self._num_steps, ms))
        self._num_steps += 1

    # ------------------------------------------------------------ reports

    def _beat(self) -> None:
        if self.is_dead:
            return
        if self._time.now_s >= self._silent_s:
            self._tell()
        self._time.call_at(self._silent_s, self._beat)

    def _tell(self) -> None:
        if self.is_dead:
            return
        self._silent_s = self._time.now_s + HEARTBEAT_S
        stat = Stat.model_construct(
            inc=self._incarnation,
            seq=self._seq,
            identity=IDENTITY,
            limits=LIMITS,
            slots=(self._sessions.num_leased, self._sessions.num_slots),
            epoch=self._ledger.epoch,
            batches=self._ledger.held,
            last=self._ledger.last,
            begun=self._ledger.begun,
            running=self._running.rows,
            step_rows=self._step_rows,
            steps=tuple(self._steps),
        )
        self._seq += 1
        self._report(self.name, stat)
