"""One verifier on one link: its parts, and how they are tied together.

Who owns what of them is told by ``app``, which runs and stops it.
"""

from dataclasses import dataclass, field

from specedge.ids import SessionKey, VerifierId
from specedge.link.base import Link
from specedge.protocol import subjects
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.codec import encode
from specedge.protocol.messages import Cold, DownMessage, Progress, Rejected, Verdict
from specedge.protocol.opening import Limits
from specedge.protocol.step_plan import StepRoom
from specedge.protocol.verifier_session import VerifierSession
from specedge.service.compute import ComputeThread
from specedge.service.runtime import ServiceContext
from specedge.service.spans import NO_SPANS, SpanRing
from specedge_verifier.engine_loop import EngineLoop, Stepper
from specedge_verifier.engines import LoadedEngine, identity_on_wire
from specedge_verifier.entry import SessionTimes
from specedge_verifier.handlers import WorkHandler
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.outbox import Outbox
from specedge_verifier.reports import EngineLoad, Reporter, Who
from specedge_verifier.sessions import SessionTable
from specedge_verifier.slots import SlotPool


@dataclass(frozen=True, slots=True)
class VerifierOptions:
    """What ``serve`` needs to know beside the engine. ``incarnation`` is random per start."""

    name: VerifierId
    incarnation: str
    limits: Limits
    times: SessionTimes = field(default_factory=SessionTimes)
    drain_s: float = 10.0
    hosted_share: float = 1.0


class Verifier:
    """All parts, tied together; none of them runs yet."""

    def __init__(
        self,
        options: VerifierOptions,
        loaded: LoadedEngine,
        *,
        compute: ComputeThread,
        link: Link,
        context: ServiceContext,
        metrics: VerifierMetrics,
        spans: SpanRing = NO_SPANS,
    ) -> None:
        identity = identity_on_wire(loaded.identity)
        clock = context.clock
        self.metrics = metrics
        self.outbox = Outbox(link)
        self.pool = SlotPool(loaded.num_slots)
        self.ledger = BatchLedger()
        self.table = SessionTable(
            make_machine=lambda key: VerifierSession(key, options.limits, identity, options.name),
            pool=self.pool,
            ledger=self.ledger,
            clock=clock,
            times=options.times,
            say=self.say,
        )
        self.reporter = Reporter(
            Who(
                options.name,
                options.incarnation,
                identity,
                options.limits,
                loaded.max_step_tokens,
            ),
            table=self.table,
            pool=self.pool,
            ledger=self.ledger,
            clock=clock,
            load=lambda: EngineLoad(self.loop.running_rows, self.loop.busy_s),
            publish=self.outbox.put,
        )
        self.loop = EngineLoop(
            stepper=Stepper(loaded.engine, compute, loaded.drafter),
            table=self.table,
            pool=self.pool,
            clock=clock,
            metrics=metrics,
            room=StepRoom(
                loaded.max_step_tokens,
                0 if loaded.drafter is None else loaded.drafter.policy.budget,
                options.hosted_share,
                loaded.max_prefill_tokens,
            ),
            on_step=self.reporter.after_step,
            spans=spans,
        )
        metrics.drafter_works.set(0 if loaded.drafter is None else 1)
        self.handler = WorkHandler(
            table=self.table,
            ledger=self.ledger,
            clock=clock,
            metrics=metrics,
            vocab_size=identity.vocab_size,
            say=self.say,
        )

    def say(self, key: SessionKey, message: DownMessage) -> None:
        """Publish to the session's edge, straight, and count it."""
        self.outbox.put(subjects.down_session(key), encode(message))
        match message:
            case Progress():
                return
            case Verdict():
                if num_new := self.table.count_new(key, message):
                    self.metrics.note_verdict(message, num_new)
            case Cold():
                self.metrics.cold.inc()
            case Rejected():
                self.metrics.rejected.labels(str(message.rejected)).inc()

    def show_in(self, metrics: VerifierMetrics) -> None:
        """Let the gauges read the present state whenever they are scraped."""
        table, pool = self.table, self.pool
        metrics.sessions.set_function(lambda: len(table))
        metrics.running.set_function(lambda: sum(not entry.is_idle for entry in table.entries))
        metrics.read_session_counts(lambda: table.counted)
        metrics.kv_usage.set_function(lambda: pool.num_leased / pool.num_slots)
