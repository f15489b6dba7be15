"""What the scheduler counts, as Prometheus sees it. Fed by the driver; decides nothing."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from specedge.protocol.messages import Rejected
from specedge.protocol.opening import Reason, Refused
from specedge.service.metrics import LoopHistogram
from specedge_scheduler.cluster import Cluster
from specedge_scheduler.policy.types import (
    AnswerOpen,
    AnswerSession,
    Effect,
    LossReason,
    SendBatch,
    VerifierLost,
)

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECOND_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

DECISION_BUCKETS = (
    *(2e-5, 5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 4e-4, 6e-4, 8e-4),
    *(0.001, 0.0012, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.05),
)


class SchedulerMetrics:
    """One per process. Written by the driver's task only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.batches_sent = 0
        self.num_refused = 0
        # How full batches are: histogram_quantile(0.5, rate(specedge_verify_batch_size_bucket[1m]))
        self._rows = LoopHistogram(
            "specedge_verify_batch_size",
            "Rows of a batch sent to a verifier",
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        # p99 wait for a place in a batch:
        # histogram_quantile(0.99, rate(specedge_request_queue_time_seconds_bucket[1m]))
        self._held = LoopHistogram(
            "specedge_request_queue_time_seconds",
            "How long a round waited at the scheduler",
            buckets=SECOND_BUCKETS,
            registry=registry,
        )
        # Why batches go when they go: by (reason) (rate(specedge_batches_total[1m]))
        self._batches = Counter(
            "specedge_batches", "Batches sent to verifiers", ["reason"], registry=registry
        )
        self._batches_by: dict[str, Counter] = {}
        # p99 of what a turn of decisions costs this thread, waiting not counted:
        # histogram_quantile(0.99, rate(specedge_decision_seconds_bucket[1m]))
        self.decisions = LoopHistogram(
            "specedge_decision_seconds",
            "CPU time of one turn of decisions",
            buckets=DECISION_BUCKETS,
            registry=registry,
        )
        # How far step times are from what was predicted: max(specedge_step_estimate_error_ratio)
        self._estimate_error = Gauge(
            "specedge_step_estimate_error_ratio",
            "Moving average of |predicted - reported| / reported step time",
            ["verifier"],
            registry=registry,
        )
        self._refused = Counter(
            "specedge_sessions_refused", "Open requests refused", ["reason"], registry=registry
        )
        self.rejected = Counter(
            "specedge_rounds_rejected",
            "Rounds answered with a rejection",
            ["reason"],
            registry=registry,
        )
        self.dropped = Counter(
            "specedge_messages_dropped",
            "Messages that led to nothing",
            ["reason"],
            registry=registry,
        )
        self._lost = Counter(
            "specedge_verifiers_lost",
            "Verifiers whose sessions had to move",
            ["reason"],
            registry=registry,
        )
        self._requeued = Counter(
            "specedge_session_migrations",
            "Rounds put back because their verifier went away",
            registry=registry,
        )
        self._sessions = Gauge("specedge_sessions", "Sessions known", registry=registry)
        self._edges = Gauge("specedge_edges_connected", "Edges with sessions", registry=registry)
        self._waiting = Gauge(
            "specedge_num_requests_waiting", "Rounds waiting for a batch", registry=registry
        )
        self._verifiers = Gauge("specedge_verifiers", "Live verifiers", registry=registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A counter that is first seen at 1 has not increased, as Prometheus has it, and nobody
        would be told of the first of its kind."""
        for why in get_args(LossReason):
            self._lost.labels(why)
        for reason in Reason:
            self._refused.labels(str(reason))

    def note(self, effect: Effect) -> None:
        """Count an effect that is about to be performed."""
        match effect:
            case SendBatch():
                self.batches_sent += 1
                self._count_batch(effect.reason)
                self._rows.observe(effect.num_nodes)
                self._held.observe_all([item.held_ms / 1000 for item in effect.batch.items])
            case AnswerSession(message=Rejected() as message):
                self.rejected.labels(str(message.rejected)).inc()
            case AnswerOpen(reply=Refused() as reply, is_trial=False):
                self.num_refused += 1
                self._refused.labels(str(reply.refused)).inc()
            case VerifierLost():
                self._lost.labels(effect.why).inc()
                self._requeued.inc(effect.num_requeued)
            case _:
                pass

    def _count_batch(self, reason: str) -> None:
        counter = self._batches_by.get(reason)
        if counter is None:
            counter = self._batches_by[reason] = self._batches.labels(reason)
        counter.inc()

    def observe(self, cluster: Cluster) -> None:
        """Take the gauges from what is known."""
        self._sessions.set(len(cluster.sessions))
        self._edges.set(len(cluster.sessions_of))
        self._waiting.set(len(cluster.waiting))
        self._verifiers.set(len(cluster.verifiers))
        self._estimate_error.clear()
        for verifier in cluster.verifiers.values():
            error = verifier.estimator.error_ratio
            self._estimate_error.labels(verifier.name).set(error)
