"""The one owner of the target engine: forms each step out of what sessions want, runs it on the
compute thread, and gives the results back to the sessions' machines.

Hosted rounds are drafted on the compute thread too, by the verifier's own drafter, if it has one; a
drafter that keeps failing is left alone, and they go on plainly.

While a step runs, the loop goes on taking work in, so the next step is known when this one ends.
Then, in this order: what may join the next step at once (hosted rows, prefill, rounds beyond which
an edge sent a draft ahead) is told its result; the next step begins; only then are the other
verdicts of the last one worked out and sent, beside it.
Knows nothing of messages or subjects.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from specedge.clock import Clock
from specedge.engine.ports import NodeChoices, TargetEngine
from specedge.ids import SessionKey
from specedge.protocol.reports import StepReport
from specedge.protocol.step_plan import StepRoom, plan_step
from specedge.protocol.verifier_effects import StepBegun, StepFailed
from specedge.service.compute import ComputeThread
from specedge.service.spans import NO_SPANS, SpanRing
from specedge_verifier.hosted_drafting import HostedDrafter
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.parts import Part, Step, take_part
from specedge_verifier.sessions import SessionTable
from specedge_verifier.slots import EngineCall, SlotPool
from specedge_verifier.turn import OwnDrafts, TurnItem, TurnOutcome, run_turn

MAX_DRAFT_FAILURES: Final = 3  # in a row: the verifier's own drafter is broken, and left alone
MAX_FAILURES: Final = 8  # in a row, of several sessions: the engine is broken, the process ends
FULL_RETRY_MS: Final = 500
FAILED_RETRY_MS: Final = 200

_log = structlog.get_logger("specedge.verifier")


class Stepper:
    """The engine, and the verifier's own drafter if it has one, behind their compute thread."""

    def __init__(
        self, engine: TargetEngine, compute: ComputeThread, drafter: HostedDrafter | None = None
    ) -> None:
        self._engine = engine
        self._compute = compute
        self._drafter = drafter

    def start(
        self, calls: Sequence[EngineCall], items: Sequence[TurnItem]
    ) -> asyncio.Future[TurnOutcome]:
        """Begin a turn at once; the future is its outcome."""
        return self._compute.start(run_turn, self._engine, self._drafter, calls, items)


class EngineLoop:
    """Steps as long as there is something to step.

    ``run`` is the one task that gives the engine work; it ends by being cancelled, and raises when
    the engine is broken. ``on_step`` is called after each step, when its verdicts are out.

    busy_s  seconds that the compute thread drafted or stepped so far
    """

    def __init__(  # noqa: PLR0913  (each is a part of the verifier that a step concerns)
        self,
        *,
        stepper: Stepper,
        table: SessionTable,
        pool: SlotPool,
        clock: Clock,
        metrics: VerifierMetrics,
        room: StepRoom,
        on_step: Callable[[StepReport], None],
        spans: SpanRing = NO_SPANS,
    ) -> None:
        self.running_rows = 0
        self.busy_s = 0.0
        self.idle = asyncio.Event()  # set while nothing runs and nothing waits
        self._stepper = stepper
        self._table = table
        self._pool = pool
        self._clock = clock
        self._metrics = metrics
        self._room = room
        self._on_step = on_step
        self._spans = spans
        self._num_draft_failures = 0  # since the last draft that went well
        self._num_steps = 0
        self._failed: Counter[SessionKey] = Counter()  # since the last step that went well
        self._ended_s = clock.now_s()

    async def run(self) -> None:
        """Step until cancelled; raises when the engine is broken."""
        unsaid: Step | None = None
        while True:
            self._table.work.clear()
            parts = self._begin()
            turn = self._submit(parts)
            if unsaid is not None:
                self._finish(unsaid)
                await self._let_verdicts_out()
                self._report(unsaid)
                unsaid = None
            if turn is None:
                self.idle.set()
                await self._table.work.wait()
                self.idle.clear()
                continue
            unsaid = await self._end(turn, parts)
            if unsaid is not None:
                self._finish(unsaid, only_those_who_go_on=True)

    async def _let_verdicts_out(self) -> None:
        """Two turns of the loop: the outbox hands the verdicts to the link, whose own task writes
        them. The report, which costs as much as a verdict, would else go out with them."""
        for _ in range(2):
            await asyncio.sleep(0)

    # ------------------------------------------------------------ before the step

    def _begin(self) -> tuple[Part, ...]:
        """Choose the next step's parts, and tell their machines that it begins."""
        now_s = self._clock.now_s()
        wants = {key: entry.want for key, entry in self._table.wants.items() if entry.want}
        parts = []
        for planned in plan_step(wants, self._room):
            entry = self._table.wants.pop(planned.key)
            part = take_part(entry, planned, now_s)
            self._table.feed(entry, StepBegun(planned.num_chain))
            if entry.is_broken:  # since just now
                self._fail(part, StepFailed("its session failed", FAILED_RETRY_MS))
                continue
            parts.append(part)
        return tuple(parts)

    def _submit(self, parts: tuple[Part, ...]) -> asyncio.Future[TurnOutcome] | None:
        calls = self._take_calls()
        if not parts and not calls:
            return None
        items = [part.item for part in parts]
        self.running_rows = sum(item.num_rows for item in items)
        if items:
            self._metrics.idle.observe(self._clock.now_s() - self._ended_s)
        return self._stepper.start(calls, items)

    def _take_calls(self) -> list[EngineCall]:
        calls, self._pool.calls = self._pool.calls, []
        return calls

    # ------------------------------------------------------------ after the step

    async def _end(self, turn: asyncio.Future[TurnOutcome], parts: tuple[Part, ...]) -> Step | None:
        """Wait for the step; None if there was none, or nobody got anything from it."""
        outcome = self._take_note(await turn)
        while outcome.full and (self._pool.shrink() or self._table.park_one()):
            outcome = await self._run([part.item for part in parts])
        self.running_rows = 0
        if parts:  # a turn of calls alone is no step
            self._ended_s = self._clock.now_s()
        if self._spans.is_on and parts:
            self._record(parts, outcome)
        if outcome.full or outcome.error is not None:
            return await self._step_apart(parts)
        if not parts:
            return None
        self._failed.clear()
        return Step(parts, outcome.choices, outcome.ms, outcome.own)

    async def _run(self, items: Sequence[TurnItem]) -> TurnOutcome:
        return self._take_note(await self._stepper.start(self._take_calls(), items))

    def _take_note(self, outcome: TurnOutcome) -> TurnOutcome:
        """Count the time of a turn, and what the drafter did in it."""
        own, busy_s = outcome.own, outcome.busy_ms / 1000
        self.busy_s += busy_s
        self._metrics.note_turn(busy_s, own.ms / 1000, len(own.errors))
        if own.errors:
            self._note_draft_failures(own.errors)
        elif any(tree is not None for tree in own.trees):
            self._num_draft_failures = 0
        return outcome

    def _record(self, parts: tuple[Part, ...], outcome: TurnOutcome) -> None:
        """The step as it was, to within the time that its end took to be heard of."""
        step_s = self._ended_s - outcome.ms / 1000
        if outcome.own.ms > 0:
            self._spans.add("device", "draft", step_s - outcome.own.ms / 1000, step_s)
        rows = sum(part.item.num_rows for part in parts)
        edges = " ".join(sorted({part.entry.key.edge[:8] for part in parts}))
        self._spans.add(
            "device", "verify", step_s, self._ended_s, rows=rows, sessions=len(parts), edges=edges
        )

    async def _step_apart(self, parts: tuple[Part, ...]) -> Step | None:
        """The step failed as a whole: each session by itself, so that only who is at fault, or
        finds no memory, goes without."""
        good: list[Part] = []
        choices: list[NodeChoices | None] = []
        total_ms = 0.0
        for part in parts:
            outcome = await self._run([part.plain_item])
            if outcome.error is not None:
                self._note_failure(part.entry.key, outcome.error)
                said = f"the engine failed: {type(outcome.error).__name__}"
                self._fail(part, StepFailed(said, FAILED_RETRY_MS))
                continue
            if outcome.full:
                self._fail(part, StepFailed("no memory is left", FULL_RETRY_MS))
                # A slot grows by doubling, beside the old one: a new one may well fit.
                self._table.park(part.entry)
                continue
            self._failed.clear()
            good.append(part)
            choices += outcome.choices
            total_ms += outcome.ms
        self._ended_s = self._clock.now_s()
        plain = OwnDrafts((None,) * len(good))
        return Step(tuple(good), tuple(choices), total_ms, plain) if good else None

    def _note_draft_failures(self, errors: Sequence[Exception]) -> None:
        """Each of another session: one that failed gets no more drafts. Several in a row mean the
        drafter itself."""
        self._num_draft_failures += len(errors)
        _log.error("hosted_draft_failed", failures=self._num_draft_failures, exc_info=errors[0])
        if self._num_draft_failures >= MAX_DRAFT_FAILURES and self._room.hosted_nodes:
            self._room = replace(self._room, hosted_nodes=0)
            self._metrics.drafter_works.set(0)
            _log.error("hosted_drafter_given_up", failures=self._num_draft_failures)

    def _note_failure(self, key: SessionKey, error: Exception) -> None:
        self._failed[key] += 1
        num_failures = self._failed.total()
        self._metrics.failed_steps.inc()
        _log.error("step_failed", session=key.session, failures=num_failures, exc_info=error)
        # One session alone may be what the engine cannot stand; several mean the engine itself.
        if num_failures >= MAX_FAILURES and len(self._failed) > 1:
            raise error

    def _fail(self, part: Part, event: StepFailed) -> None:
        part.entry.running = None
        self._table.feed(part.entry, event)

    def _finish(self, step: Step, *, only_those_who_go_on: bool = False) -> None:
        """Give the sessions what the step found for them, unless they know: all, or only those that
        may want the next step at once."""
        for index, part in enumerate(step.parts):
            if part.is_told or (only_those_who_go_on and not part.may_go_on):
                continue
            part.entry.running = None
            self._table.feed(part.entry, step.result(index))

    def _report(self, step: Step) -> None:
        report = step.report(self._num_steps)
        self._num_steps += 1
        self._metrics.note_step(report)
        self._on_step(report)
