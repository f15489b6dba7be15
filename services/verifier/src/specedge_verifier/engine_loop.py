"""The one owner of the target engine: forms each step out of what sessions want, runs it on the
compute thread, and gives the results back to the sessions' machines.

While a step runs, the loop goes on taking work in, so the next step is known when this one ends.
Then, in this order: what may join the next step at once (hosted rows, prefill) is told its result;
the next step begins; only then are the verdicts of the last one worked out and sent, beside it.
Knows nothing of messages or subjects.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from specedge.clock import Clock
from specedge.engine.ports import NodeChoices, TargetEngine
from specedge.ids import SessionKey
from specedge.protocol.effects import StepBegun, StepFailed
from specedge.protocol.messages import StepReport
from specedge.service.compute import ComputeThread
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.parts import Part, Step, take_part
from specedge_verifier.sessions import SessionTable
from specedge_verifier.slots import EngineCall, SlotPool
from specedge_verifier.step_plan import plan_step
from specedge_verifier.turn import TurnItem, TurnOutcome, run_turn

MAX_FAILURES: Final = 8  # in a row, of several sessions: the engine is broken, the process ends
FULL_RETRY_MS: Final = 500
FAILED_RETRY_MS: Final = 200

_log = structlog.get_logger("specedge.verifier")


class Stepper:
    """The engine behind its compute thread."""

    def __init__(self, engine: TargetEngine, compute: ComputeThread) -> None:
        self._engine = engine
        self._compute = compute

    def start(
        self, calls: Sequence[EngineCall], items: Sequence[TurnItem]
    ) -> asyncio.Future[TurnOutcome]:
        """Begin a turn at once; the future is its outcome."""
        return self._compute.start(run_turn, self._engine, calls, items)


class EngineLoop:
    """Steps as long as there is something to step.

    ``run`` is the one task that gives the engine work; it ends by being cancelled, and raises when
    the engine is broken. ``on_step`` is called after each step, when its verdicts are out.
    """

    def __init__(
        self,
        *,
        stepper: Stepper,
        table: SessionTable,
        pool: SlotPool,
        clock: Clock,
        metrics: VerifierMetrics,
        max_step_tokens: int,
        on_step: Callable[[StepReport], None],
    ) -> None:
        self.running_rows = 0
        self.idle = asyncio.Event()  # set while nothing runs and nothing waits
        self._stepper = stepper
        self._table = table
        self._pool = pool
        self._clock = clock
        self._metrics = metrics
        self._max_step_tokens = max_step_tokens
        self._on_step = on_step
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
                self._finish(unsaid, goes_on=False)
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
                self._finish(unsaid, goes_on=True)

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
        for planned in plan_step(wants, self._max_step_tokens):
            entry = self._table.wants.pop(planned.key)
            part = take_part(entry, planned.num_chain, now_s)
            self._table.feed(entry, StepBegun(len(part.item.chain)))
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
        outcome = await turn
        while outcome.full and (self._pool.shrink() or self._table.park_one()):
            items = [part.item for part in parts]
            outcome = await self._stepper.start(self._take_calls(), items)
        self.running_rows = 0
        self._ended_s = self._clock.now_s()
        if outcome.full or outcome.error is not None:
            return await self._step_apart(parts)
        self._failed.clear()
        return Step(parts, outcome.choices, outcome.ms) if parts else None

    async def _step_apart(self, parts: tuple[Part, ...]) -> Step | None:
        """The step failed as a whole: each session by itself, so that only who is at fault, or
        finds no memory, goes without."""
        good: list[Part] = []
        choices: list[NodeChoices | None] = []
        total_ms = 0.0
        for part in parts:
            outcome = await self._stepper.start(self._take_calls(), [part.item])
            if outcome.error is not None:
                self._note_failure(part.entry.key, outcome.error)
                said = f"the engine failed: {type(outcome.error).__name__}"
                self._fail(part, StepFailed(said, FAILED_RETRY_MS))
                continue
            if outcome.full:
                self._fail(part, StepFailed("no memory is left", FULL_RETRY_MS))
                continue
            self._failed.clear()
            good.append(part)
            choices += outcome.choices
            total_ms += outcome.ms
        self._ended_s = self._clock.now_s()
        return Step(tuple(good), tuple(choices), total_ms) if good else None

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

    def _finish(self, step: Step, *, goes_on: bool) -> None:
        """Give the sessions what the step found for them: those that may want the next step at
        once, or the others."""
        for part, chosen in zip(step.parts, step.choices, strict=True):
            if part.may_go_on is not goes_on:
                continue
            part.entry.running = None
            self._table.feed(part.entry, step.result(part, chosen))

    def _report(self, step: Step) -> None:
        report = step.report(self._num_steps)
        self._num_steps += 1
        self._metrics.note_step(report)
        self._on_step(report)
