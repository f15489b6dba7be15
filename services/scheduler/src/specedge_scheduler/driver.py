"""Between the link and the policy: messages become events, effects become messages.

Owns the policy and its cluster state; nobody else touches them. Decides nothing. What is heard
becomes events (``inbound``) in one bounded inbox; one task takes out all that are there, tells
the policy, and performs what it asks for, so everything happens in one order, and what arrived
together is decided and sent together.
"""

import asyncio
import math
from time import thread_time
from typing import Final, assert_never

import structlog

from specedge.clock import Cancellable, Timers
from specedge.errors import InvalidRequest, RetryableError
from specedge.ids import EdgeId, SchedulerId
from specedge.link.base import Link, Message, Subscription
from specedge.log_pace import is_worth_a_line
from specedge.protocol import subjects
from specedge.protocol.codec import encode
from specedge.protocol.reports import SchedulerStat
from specedge.protocol.subjects import Work
from specedge.service.spans import NO_SPANS, SpanRing
from specedge_scheduler.doorway import Doorway
from specedge_scheduler.inbound import event_of_edge, event_of_verifier
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    AnswerOpen,
    AnswerSession,
    Effect,
    Event,
    Forward,
    LoopStalled,
    SendBatch,
    TurnEnded,
    VerifierFound,
    VerifierLost,
)

INBOX_EVENTS: Final = 65_536  # beyond it the newest is dropped and counted: its sender repeats it
STAT_PERIOD_S: Final = 1.0
TURN_ENDED: Final = TurnEnded()

_log = structlog.get_logger("specedge.scheduler")


class Driver:
    """Runs one policy on one link.

    ``start`` subscribes; ``run`` is the one task that owns the policy, ended by cancelling it.
    """

    def __init__(
        self,
        name: SchedulerId,
        policy: SchedulerPolicy,
        link: Link,
        clock: Timers,
        metrics: SchedulerMetrics,
        *,
        incarnation: str,
        spans: SpanRing = NO_SPANS,
    ) -> None:
        self._name = name
        self._policy = policy
        self._link = link
        self._clock = clock
        self._metrics = metrics
        self._incarnation = incarnation
        self._spans = spans
        self._doorway = Doorway(policy.limits.bytes_per_s)
        self._inbox: list[Event] = []
        # Done when something is in the inbox, or a moment has come; a new one for each wait, which
        # is what an event would make as well, behind a lock.
        self._awake: asyncio.Future[None] | None = None
        self._alarm: Cancellable | None = None
        self._alarm_s = math.inf  # when it rings
        self._heard: list[Subscription] = []
        self._stat_seq = 0
        self._num_failed = 0
        self._term = policy.cluster.epoch
        self._next_stat_s = 0.0

    async def start(self) -> None:
        """Listen. Verifiers first, so that the first edge finds them known."""
        self._heard = [
            await self._link.subscribe(subjects.ALL_VERIFIERS, self._on_verifier),
            await self._link.subscribe(subjects.ALL_UP, self._on_edge, max_pending=INBOX_EVENTS),
        ]

    async def stop(self) -> None:
        """Listen no more. Idempotent."""
        while self._heard:
            await self._heard.pop().unsubscribe()

    def note_stall(self, lag_s: float) -> None:
        """The loop did not run for so long. Goes before what piled up meanwhile is judged."""
        self._tell(LoopStalled(lag_s))

    async def run(self) -> None:
        """Take events, perform effects. Runs until cancelled; what a single event does wrong is
        logged and costs that event alone."""
        try:
            while True:
                await self._until_turn()
                await self._take_turn()
                if self._clock.now_s() >= self._next_stat_s:
                    await self._report()
        finally:
            self._ring_at(math.inf)

    # ------------------------------------------------------------ in

    async def _until_turn(self) -> None:
        """Return when something has arrived, or the policy's own moment has come."""
        if self._inbox:
            return
        due_s = min(self._policy.next_due_s(), self._next_stat_s)
        if due_s < self._alarm_s:  # else it rings in time, at worst for nothing
            self._ring_at(due_s)
        self._awake = asyncio.get_running_loop().create_future()
        await self._awake

    def _wake(self) -> None:
        if self._awake is not None and not self._awake.done():
            self._awake.set_result(None)

    def _ring_at(self, due_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_s = due_s
        if due_s < math.inf:
            self._alarm = self._clock.call_at(due_s, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm, self._alarm_s = None, math.inf
        self._wake()

    def _tell(self, event: Event) -> None:
        if len(self._inbox) >= INBOX_EVENTS:
            self._metrics.dropped.labels("inbox_full").inc()
            return
        self._inbox.append(event)
        self._wake()

    def _on_verifier(self, message: Message) -> None:
        event = event_of_verifier(message, self._metrics)
        if event is not None:
            self._tell(event)

    def _on_edge(self, message: Message) -> None:
        event = event_of_edge(message, self._policy.group, self._metrics, self._lets_in)
        if event is not None:
            self._tell(event)

    def _lets_in(self, edge: EdgeId, num_bytes: int) -> bool:
        return self._doorway.lets_in(edge, num_bytes, self._clock.now_s())

    # ------------------------------------------------------------ out

    async def _take_turn(self) -> None:
        """Everything that arrived is told, then decided upon, then done."""
        began_s = thread_time()
        now_s = self._clock.now_s()
        events, self._inbox = self._inbox, []
        effects: list[Effect] = []
        events.append(TURN_ENDED)
        for event in events:
            try:
                effects += self._policy.on(event, now_s)
            except Exception:  # the task's root: one event must not stop the service
                self._metrics.dropped.labels("failed").inc()
                self._num_failed += 1
                if is_worth_a_line(self._num_failed):
                    _log.exception(
                        "event_failed", kind=type(event).__name__, so_far=self._num_failed
                    )
        self._metrics.decisions.observe(thread_time() - began_s)
        if self._policy.cluster.epoch != self._term:
            _log.warning("term_raised", was=self._term, now=self._policy.cluster.epoch)
            self._term = self._policy.cluster.epoch
        for effect in effects:
            await self._perform(effect)

    async def _perform(self, effect: Effect) -> None:
        self._metrics.note(effect)
        match effect:
            case SendBatch():
                if self._spans.is_on:
                    self._record(effect)
                subject = subjects.work(Work.BATCH, effect.verifier)
                await self._publish(subject, encode(effect.batch))
            case Forward():
                subject = subjects.work(Work(effect.kind), effect.verifier, effect.key)
                await self._publish(subject, effect.payload)
            case AnswerSession():
                await self._publish(subjects.down_session(effect.key), encode(effect.message))
            case AnswerOpen():
                await self._publish(effect.reply_to, encode(effect.reply))
            case VerifierFound():
                _log.info("verifier_found", verifier=effect.verifier, model=effect.model)
            case VerifierLost():
                _log_lost(effect)
            case _:
                assert_never(effect)

    def _record(self, effect: SendBatch) -> None:
        now_s, items = self._clock.now_s(), effect.batch.items
        lane = f"to {effect.verifier}"
        self._spans.add(lane, "batch", now_s, now_s, rows=effect.num_nodes, sessions=len(items))
        for item in items:  # from its arrival here until now; an edge's sessions overlap
            held_s = item.held_ms / 1000
            self._spans.add(f"held {item.e[:8]} {item.s[:8]}", "held", now_s - held_s, now_s)

    async def _publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._link.publish(subject, payload)
        except (RetryableError, InvalidRequest) as error:
            # Lost like any other message: retries of the edge cover it.
            self._metrics.dropped.labels("unsent").inc()
            _log.debug("publish_failed", subject=subject, reason=str(error))

    async def _report(self) -> None:
        cluster = self._policy.cluster
        self._doorway.forget_unused(self._clock.now_s())
        self._next_stat_s = self._clock.now_s() + STAT_PERIOD_S
        self._metrics.observe(cluster)
        stat = SchedulerStat(
            inc=self._incarnation,
            seq=self._stat_seq,
            epoch=cluster.epoch,
            sessions=len(cluster.sessions),
            waiting=len(cluster.waiting),
            verifiers=len(cluster.verifiers),
            batches_sent=self._metrics.batches_sent,
            refused=self._metrics.num_refused,
        )
        self._stat_seq += 1
        await self._publish(subjects.scheduler_stat(self._name), encode(stat))


def _log_lost(lost: VerifierLost) -> None:
    is_planned = lost.why in ("draining", "bye")
    log = _log.info if is_planned else _log.warning
    log("verifier_lost", verifier=lost.verifier, why=lost.why, rounds_requeued=lost.num_requeued)
