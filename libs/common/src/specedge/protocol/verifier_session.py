"""The verifier's end of a session: events in, effects out.

Rule 1: every change of a verifier session's state happens here; ``VERIFIER_TRANSITIONS`` bounds it.
Rule 2: no clock, no link, no engine. Time comes in as ``now_s``, work goes out as effects.
Rule 3: a wrong local call raises ``ProtocolViolation`` and changes nothing; the wire never raises.

A verifier is a cache: whatever is lost here, the edge brings again. Half-open intervals of tokens:

    [0, rows)            their KV rows are valid in the slot (none without a slot)
    [rows, base)         the chain: committed, KV to be computed; the root is always among them
    [0, asked base)      what the edge knows of; a grant runs ahead of it, a rewind goes back to it

While a step is under way neither the log nor the rows change: what arrives waits for its end.
"""

from collections import Counter
from dataclasses import replace
from enum import Enum, auto

import numpy as np

from specedge.errors import ProtocolViolation
from specedge.ids import SessionKey
from specedge.protocol.answered_rounds import AnsweredRounds
from specedge.protocol.context_intake import ContextIntake
from specedge.protocol.effects import (
    AheadArrived,
    ContextArrived,
    DropSlot,
    EndingArrived,
    Gone,
    KeepRows,
    Reply,
    SetTimer,
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepBegun,
    StepFailed,
    Stepped,
    TimerDue,
    VerifierEffect,
    VerifierEvent,
    WantSlot,
    WantStep,
    Withdraw,
    WorkArrived,
)
from specedge.protocol.grant_line import GrantLine
from specedge.protocol.messages import (
    Ahead,
    BatchItem,
    Cold,
    Identity,
    Limits,
    Progress,
    Reason,
    SessionParams,
)
from specedge.protocol.moments import is_up
from specedge.protocol.progress_timer import ProgressTimer
from specedge.protocol.token_log import TokenLog, num_common
from specedge.protocol.verdicts import Outcome, decide, verdict_of
from specedge.protocol.verifier_job import (
    Answered,
    Arrival,
    Job,
    VerifierSessionConfig,
    WantedStep,
    job_ahead,
)
from specedge.protocol.verifier_states import VERIFIER_TRANSITIONS, VerifierState
from specedge.protocol.wire_tree import from_wire
from specedge.protocol.work_checks import (
    EXPIRED,
    Fault,
    find_context_fault,
    find_place_fault,
    find_work_fault,
    is_sound_ahead,
)
from specedge.tree.token_tree import IntArray, TokenTree

_OVER = (VerifierState.ENDING, VerifierState.GONE)


class _Lease(Enum):
    NONE = auto()
    ASKED = auto()
    HELD = auto()


class VerifierSession:
    """One session at one verifier. ``verifier`` is its id, said in every answer. One owner drives
    it; ``committed`` and ``params`` are for the engine's choosing, between events."""

    def __init__(
        self,
        key: SessionKey,
        limits: Limits,
        identity: Identity,
        verifier: str,
        config: VerifierSessionConfig | None = None,
    ) -> None:
        self.key = key
        self.counters: Counter[str] = Counter()
        self._limits = limits
        self._identity = identity
        self._verifier = verifier
        self._config = config or VerifierSessionConfig()
        self._state = VerifierState.ABSENT
        self._out: list[VerifierEffect] = []
        self._log: TokenLog | None = None
        self._intake = ContextIntake()
        self._context_round = 0
        self._lease = _Lease.NONE
        self._rows = 0
        self._is_prefilling = False  # rows are computed ahead of any draft
        self._waiting: Arrival | None = None  # came before its context was complete
        self._next: Arrival | None = None  # came during a step
        self._job: Job | None = None
        self._step: WantedStep | None = None
        self._asked: tuple[int, int] | None = None  # newest (round, try) that the edge named
        self._line = GrantLine()
        self._answered = AnsweredRounds()
        self._timer = ProgressTimer(self._config.progress_s)

    # ------------------------------------------------------------ what others may read

    @property
    def state(self) -> VerifierState:
        """Where the session stands."""
        return self._state

    @property
    def committed(self) -> IntArray:
        """Prompt and generated tokens, (base,) int32, read-only; empty if there is no context."""
        return np.empty(0, dtype=np.int32) if self._log is None else self._log.view()

    @property
    def params(self) -> SessionParams | None:
        """As the context said them."""
        return None if self._log is None else self._log.params

    @property
    def rows(self) -> int:
        """How many KV rows are valid."""
        return self._rows

    @property
    def has_slot(self) -> bool:
        """Whether a slot is leased."""
        return self._lease is _Lease.HELD

    @property
    def is_hosted(self) -> bool:
        """Whether a grant runs."""
        return self._job is not None and self._job.is_hosted

    @property
    def grant_left(self) -> int:
        """Tokens that the grant's present round may commit; 0: no grant runs."""
        return 0 if self._job is None else self._job.grant_left

    @property
    def expects_more(self) -> bool:
        """Whether the round at hand may be followed by another at once: something was drafted
        beyond it, and sent ahead."""
        return self._job is not None and self._job.ahead is not None

    @property
    def rows_ahead(self) -> int:
        """Rows of the round at hand if its draft was sent ahead; 0: it was not, or none is."""
        job = self._job
        return 1 + len(job.item.token) if job is not None and job.is_ahead else 0

    @property
    def last_round(self) -> int:
        """The last answered round; -1: none."""
        return self._answered.last_round

    # ------------------------------------------------------------ events

    def on(self, event: VerifierEvent, now_s: float) -> list[VerifierEffect]:
        """Take one event; perform the effects in order before the next one."""
        allowed = VERIFIER_TRANSITIONS[self._state].get(type(event))
        if allowed is None or not self._is_in_turn(event):
            raise ProtocolViolation(f"{type(event).__name__} is out of turn when {self._state}")
        self._out = []
        if self._state in _OVER:
            self._finish_ending(event)
        else:
            self._dispatch(event, now_s)
        assert self._state in allowed, f"{type(event).__name__}: not allowed to {self._state}"
        return self._out

    def _is_in_turn(self, event: VerifierEvent) -> bool:
        """Whether a local answer was asked for, and fits what was asked."""
        match event:
            case SlotGiven() | SlotDenied():
                return self._lease is _Lease.ASKED
            case SlotTaken():
                return self._lease is _Lease.HELD
            case StepBegun(num_chain):
                return self._step is not None and self._step.can_begin(num_chain)
            case Stepped():
                step = self._step
                return step is not None and step.is_answered_by(event.choice, event.tree)
            case StepFailed():
                return self._step is not None
        return True

    def _dispatch(self, event: VerifierEvent, now_s: float) -> None:
        match event:
            case ContextArrived():
                self._on_context(event)
            case WorkArrived():
                self._on_work(event, now_s)
            case AheadArrived(ahead):
                self._on_ahead(ahead)
            case SlotGiven() | SlotDenied() | SlotTaken():
                self._on_slot(event)
            case StepBegun(num_chain):
                assert self._step is not None
                self._step.num_chain, self._step.has_begun = num_chain, True
                self._step.limit = self.grant_left or None
            case Stepped() | StepFailed():
                self._on_step_end(event, now_s)
            case TimerDue():
                self._on_timer(now_s)
            case EndingArrived():
                self._begin_ending()
                return
        self._pump(now_s)
        self._state = self._find_state()
        self._arm(now_s)

    # ------------------------------------------------------------ context

    def _on_context(self, event: ContextArrived) -> None:
        header = event.header
        fault = find_context_fault(header, event.ids, self._identity, self._limits)
        if fault is not None:
            self._reject(header.round, 0, fault)
        elif self._asked is not None and header.round < self._asked[0]:
            self.counters["stale_context"] += 1
        elif self._log is not None and self._log.agrees(header.total, header.hash):
            self.counters["held_context"] += 1
        else:
            count = self._intake.take(header, event.ids)
            self.counters.update([count] if count else [])

    def _install(self) -> None:
        """The context is complete: it replaces what was held. Rows of a common prefix stay."""
        assembly = self._intake.pop()
        header = assembly.header
        log = TokenLog(header.params, assembly.tokens)
        if log.hash_at(len(log)) != header.hash:
            message = "hash does not fit the params and tokens of the context"
            self._reject(header.round, 0, Fault(Reason.INVALID, message, "hash"))
            self._waiting = None
            return
        if self._job is not None and self._waiting is None:
            job = self._job
            self._waiting = Arrival(job.item, job.deadline_s or np.inf, job.budget_s)
        common = 0 if self._log is None else num_common(self._log.view(), log.view())
        self._rows = min(self._rows, common, len(log) - 1)
        self._job, self._log = None, log
        self._line.clear()
        self._context_round = header.round
        self._is_prefilling = True

    # ------------------------------------------------------------ work

    def _on_work(self, event: WorkArrived, now_s: float) -> None:
        item = event.item
        fault = find_work_fault(item, self._limits, self._identity.vocab_size)
        if fault is not None:
            self._reject(item.round, item.try_, fault)
            return
        arrival = Arrival(item, event.deadline_s, max(event.deadline_s - now_s, 0.0))
        is_newer = self._asked is None or arrival.name > self._asked
        if is_newer:
            self._asked = arrival.name
            if item.run == 0:
                self._end_grant()
        if again := self._answered.again(item):
            self._out += [Reply(verdict) for verdict in again]
            self.counters["answered_again"] += 1
        elif not is_newer:
            self.counters["stale_work"] += 1
        elif self._is_outrun(item):
            self.counters["outrun_draft"] += 1
        elif self._step is not None and self._step.has_begun:
            self._next = None if self._refresh(arrival) else arrival  # the older one is outdated
        else:
            self._take(arrival, now_s)

    def _on_ahead(self, ahead: Ahead) -> None:
        """Keep it for the end of the round that it was drafted beyond. A hint: what is wrong, late
        or too much is dropped, and nothing is said."""
        job = self._job
        if not is_sound_ahead(ahead, self._limits, self._identity.vocab_size):
            self.counters["ahead_refused"] += 1
        elif job is None or job.ahead is not None or not job.is_beneath(ahead):
            self.counters["ahead_out_of_turn"] += 1
        else:
            job.ahead = ahead

    def _end_grant(self) -> None:
        """The edge drafts again: nothing is hosted after the step under way, if there is one."""
        job = self._job
        if job is None or not job.is_hosted:
            return
        if self._step is not None and self._step.has_begun:
            job.grant_end = job.base
        else:
            self._job = None

    def _is_outrun(self, item: BatchItem) -> bool:
        """Whether the grant, running on while the edge drafted, has said this round and others
        after it. They are on their way, and the edge will draft on what they leave. Were one lost,
        it would say the round again: then all it has not seen is taken back."""
        start = item.base + len(item.append)
        is_first = item.run == 0 and item.try_ == 0 and not item.append
        log = self._log
        return (
            (is_first and log is not None and start < len(log))
            and self._line.starts(item.round, start)
            and log.agrees(item.base, item.hash)
        )

    def _take(self, arrival: Arrival, now_s: float) -> None:
        """Admit work, or say why not. No step is under way."""
        self._waiting = None
        item = arrival.item
        if self._refresh(arrival):
            return
        if self._log is None or not self._log.agrees(item.base, item.hash):
            self._wait_or_say_cold(arrival)
        elif (fault := find_place_fault(item, self._log.params)) is not None:
            self._reject(item.round, item.try_, fault)
        elif now_s > arrival.deadline_s:
            self._reject(item.round, item.try_, EXPIRED)
        else:
            self._admit(arrival)

    def _refresh(self, arrival: Arrival) -> bool:
        """Whether this is the round at hand, said again: then only its try and time are new."""
        job, item = self._job, arrival.item
        if job is None or not job.is_asked_by(item):
            return False
        self.counters["duplicate_work"] += 1
        job.try_, job.budget_s = item.try_, arrival.budget_s
        if job.deadline_s is not None:
            job.deadline_s = max(job.deadline_s, arrival.deadline_s)
        if job.is_hosted:
            job.grant_end = job.base + item.run
        return True

    def _wait_or_say_cold(self, arrival: Arrival) -> None:
        """Its context may still be on the way: then it waits, once. If it is said again and no
        chunk came in between, some were lost."""
        round_ = arrival.item.round
        if self._intake.is_worth_waiting_for(round_):
            self._waiting = arrival
            return
        self._intake.drop_before(round_)
        self.counters["cold"] += 1
        self._job = None
        answer = Cold(round=round_, try_=arrival.item.try_, at=self._verifier)
        self._out.append(Reply(answer))

    def _admit(self, arrival: Arrival) -> None:
        item, log = arrival.item, self._log
        assert log is not None
        self._intake.drop_before(item.round + 1)
        start = item.base + len(item.append)
        round_ = item.round
        if item.run and item.try_ == 0 and not item.append and self._line.starts(round_, start):
            self._line.drop_before(round_)
            if self._job is not None:
                self._job.grant_end = start + item.run
                return
            round_ = self._line.newest_round  # the old grant ran out: go on where it stopped
        else:
            self._rewind(arrival)
            self._line.clear()
            if item.run:
                self._line.begin(round_, start)
        if item.run and start + item.run <= len(log):
            return  # nothing left of this grant that was not said already
        self._job = Job(
            item=item,
            round=round_,
            try_=item.try_ if round_ == item.round else 0,
            base=len(log),
            hash=log.hash_at(len(log)),
            deadline_s=arrival.deadline_s,
            budget_s=arrival.budget_s,
            grant_end=start + item.run if item.run else 0,
        )

    def _rewind(self, arrival: Arrival) -> None:
        """Make the log end at base + append. What of append is there already keeps its rows."""
        log, item = self._log, arrival.item
        assert log is not None
        held = log.view(item.base)
        num_held = num_common(held, np.asarray(item.append, dtype=np.int32))
        end = item.base + num_held
        if end < len(log):
            self.counters["truncated"] += 1
        log.truncate(end)
        log.extend(item.append[num_held:])
        self._rows = min(self._rows, end, len(log) - 1)

    # ------------------------------------------------------------ slot and steps

    def _pump(self, now_s: float) -> None:
        """Ask for what is needed next. Nothing while a step is under way."""
        if self._step is not None and self._step.has_begun:
            return
        if self._intake.is_complete:
            self._install()
        if self._waiting is not None and not self._intake.is_open:
            self._take(self._waiting, now_s)
        if self._log is None or (self._job is None and not self._is_prefilling):
            self._want(None)
        elif self._lease is _Lease.NONE:
            self._lease = _Lease.ASKED
            self._out.append(WantSlot(len(self._log) + self._limits.nodes))
        elif self._lease is _Lease.HELD:
            self._want(self._plan_step(self._log))

    def _plan_step(self, log: TokenLog) -> WantedStep | None:
        num_tail, job = len(log) - self._rows, self._job
        if job is not None and num_tail <= self._config.max_chain_tokens:
            chain = log.view(self._rows)
            tree = TokenTree.root_only(log.root) if job.is_hosted else from_wire(log.root, job.item)
        elif num_tail > 1:
            chain, tree, job = log.view(self._rows, len(log) - 1), None, None
        else:
            self._is_prefilling = False
            return None
        key = (self._rows, len(log), log.hash_at(len(log)), job)
        return WantedStep(key, self._rows, chain, tree, job)

    def _want(self, step: WantedStep | None) -> None:
        """Replace the wanted step, if the new one differs."""
        if step is None:
            if self._step is not None:
                self._out.append(Withdraw())
            self._step = None
        elif self._step is None or self._step.key != step.key:
            self._step = step
            deadline_s = None if self._job is None else self._job.deadline_s
            is_hosted = step.job is not None and step.job.is_hosted
            is_ahead = step.job is not None and step.job.is_ahead
            self._out.append(
                WantStep(step.start, step.chain, step.tree, deadline_s, is_hosted, is_ahead)
            )

    def _on_slot(self, event: SlotGiven | SlotDenied | SlotTaken) -> None:
        match event:
            case SlotGiven(rows_ready):
                self._lease = _Lease.HELD
                self._rows = min(rows_ready, max(len(self.committed) - 1, 0))
            case SlotTaken():
                self._lease, self._rows = _Lease.NONE, 0
            case SlotDenied(retry_ms):
                self._lease, self._is_prefilling = _Lease.NONE, False
                self._drop_job(Fault(Reason.BUSY, "no slot is free", ""), retry_ms)

    def _on_step_end(self, event: Stepped | StepFailed, now_s: float) -> None:
        step, self._step = self._step, None
        assert step is not None
        match event:
            case StepFailed(message, retry_ms):
                self._is_prefilling = False
                fault = Fault(Reason.BUSY, f"the step failed: {message}"[:300], "")
                retry = self._config.retry_ms if retry_ms is None else retry_ms
                self._drop_job(fault, retry)
            case Stepped():
                if step.job is None:
                    self._rows += step.num_chain
                else:
                    self._publish(step, step.job, event, now_s)
        arrival, self._next = self._next, None
        if arrival is None:
            return
        if self._answered.is_newest(arrival.item):
            self.counters["answered_by_grant"] += 1  # by the verdict that was just said
        else:
            self._take(arrival, now_s)

    def _publish(self, step: WantedStep, job: Job, event: Stepped, now_s: float) -> None:
        log, tree = self._log, step.tried(event.tree)
        assert log is not None
        assert tree is not None and event.choice is not None
        base = len(log)
        outcome = decide(tree, event.choice, event.logprobs, log.params, base, step.limit)
        log.extend(outcome.tokens)
        self._rows = base + len(outcome.path)
        self._job = self._following(job, outcome, now_s)
        verdict = verdict_of(
            outcome,
            job,
            log,
            at=self._verifier,
            num_tried=tree.num_drafted,
            num_ahead=max(self.rows_ahead - 1, 0),
            step=event,
        )
        self._answered.note(Answered(job.base, job.hash, verdict), was_ahead=job.is_ahead)
        self._out.append(Reply(verdict))
        if len(outcome.path):
            self._out.append(KeepRows(base, outcome.path))
        self._timer.restart()
        self._is_prefilling = False
        if outcome.final is not None:
            self._drop_slot()

    def _following(self, job: Job, outcome: Outcome, now_s: float) -> Job | None:
        """The next round, if there is one already: the grant's, or that of a draft sent ahead."""
        assert self._log is not None
        base = len(self._log)
        if job.is_hosted:
            self._line.add(job.round + 1, base)
        if outcome.final is not None:
            return None
        if job.ahead is not None:
            following = job_ahead(job, self._log, now_s, self._limits.nodes)
            self.counters["ahead_missed" if following is None else "ahead_used"] += 1
            return following
        if base >= job.grant_end:
            return None
        hash_ = self._log.hash_at(base)
        return replace(job, round=job.round + 1, try_=0, base=base, hash=hash_, deadline_s=None)

    # ------------------------------------------------------------ rejections, time

    def _drop_job(self, fault: Fault, retry_ms: int | None = None) -> None:
        if self._job is not None:
            job, self._job = self._job, None
            self._reject(job.round, job.try_, fault, retry_ms)

    def _reject(self, round_: int, try_: int, fault: Fault, retry_ms: int | None = None) -> None:
        self.counters[f"rejected_{fault.reason}"] += 1
        answer = fault.as_rejected(round_, try_, self._verifier, retry_ms)
        self._out.append(Reply(answer))

    def _on_timer(self, now_s: float) -> None:
        if not self._timer.rings(now_s):
            return
        if self._timer.is_progress_due(now_s):
            self._report_progress(now_s)
        elif is_up(self._expires_at_s(), now_s):
            self._drop_job(EXPIRED)

    def _expires_at_s(self) -> float | None:
        """When the job must be given up; None if there is none, or its step is under way."""
        has_begun = self._step is not None and self._step.has_begun
        return None if self._job is None or has_begun else self._job.deadline_s

    def _report_progress(self, now_s: float) -> None:
        """A sign of life to the edge, whose own timer starts again: so do the deadlines."""
        self._timer.restart()
        self._intake.is_news = False
        for late in (self._next, self._waiting, self._job):
            if late is not None and late.deadline_s is not None:
                late.deadline_s = max(late.deadline_s, now_s + late.budget_s)
        round_, try_ = self._name_of_progress()
        figures = (self._rows, len(self.committed))
        if (assembly := self._intake.assembly) is not None:
            figures = (assembly.num_received, assembly.header.total)
        answer = Progress(round=round_, try_=try_, at=self._verifier, progress=figures)
        self._out.append(Reply(answer))

    def _name_of_progress(self) -> tuple[int, int]:
        if self._next is not None:
            return self._next.name
        if self._job is not None:
            return self._job.round, self._job.try_
        if self._waiting is not None:
            return self._waiting.name
        if self._intake.assembly is not None:
            return self._intake.assembly.header.round, 0
        return self._context_round, 0

    def _arm(self, now_s: float) -> None:
        is_at_work = self._job is not None or self._next is not None or self._is_prefilling
        is_at_work = is_at_work or (self._intake.is_open and self._intake.is_news)
        timer = self._timer
        self._tell_timer(timer.arm(now_s, self._expires_at_s()) if is_at_work else timer.stop())

    def _tell_timer(self, changed: SetTimer | None) -> None:
        if changed is not None:
            self._out.append(changed)

    # ------------------------------------------------------------ state and end

    def _find_state(self) -> VerifierState:
        if self._step is not None:
            is_round = self._step.job is not None
            return VerifierState.RUNNING if is_round else VerifierState.FILLING
        if self._job is not None or self._intake.is_open or self._is_prefilling:
            return VerifierState.FILLING
        if self._lease is _Lease.ASKED:
            return VerifierState.FILLING  # nobody needs it any more, but the answer is owed
        return VerifierState.ABSENT if self._log is None else VerifierState.READY

    def _begin_ending(self) -> None:
        self._job = self._next = self._waiting = None
        self._intake = ContextIntake()
        self._is_prefilling = False
        self._tell_timer(self._timer.stop())
        has_begun = self._step is not None and self._step.has_begun
        if self._step is not None and not has_begun:
            self._want(None)
        if has_begun or self._lease is _Lease.ASKED:
            self._state = VerifierState.ENDING
        else:
            self._leave()

    def _finish_ending(self, event: VerifierEvent) -> None:
        """Over: nothing from the wire counts; the driver's last answer frees the slot."""
        match event:
            case SlotGiven():
                self._lease = _Lease.HELD
                self._leave()
            case SlotDenied():
                self._lease = _Lease.NONE
                self._leave()
            case Stepped() | StepFailed():
                self._step = None
                self._leave()
            case _:
                self.counters["after_end"] += 1

    def _leave(self) -> None:
        if self._lease is _Lease.HELD:
            self._drop_slot()
        self._lease = _Lease.NONE
        self._state = VerifierState.GONE
        self._out.append(Gone())

    def _drop_slot(self) -> None:
        self._out.append(DropSlot(self.committed[: self._rows]))
        self._lease, self._rows = _Lease.NONE, 0
