"""What the verifier counts, as Prometheus sees it. Decides nothing."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from specedge.protocol.messages import Verdict
from specedge.protocol.reports import StepReport
from specedge_verifier.entry import FAILED, PARKED

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
STEP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
GAP_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1, 1.0)


class _SessionCounts(Collector):
    """specedge_session_events_total: what they ignored, rejected, said again; parked, failed."""

    def __init__(self) -> None:
        self.read: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterable[Metric]:
        """See ``Collector.collect``."""
        family = CounterMetricFamily(
            "specedge_session_events", "Of sessions, by kind", labels=["event"]
        )
        # An alert asks how often sessions are parked, so none is said, too.
        for event, count in {PARKED: 0, FAILED: 0, **self.read()}.items():
            family.add_metric([event], count)
        yield family


class VerifierMetrics:
    """One per process. Written on the event loop only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Mean step: rate(specedge_verify_seconds_sum[1m]) / rate(specedge_verify_seconds_count[1m])
        self._step_s = Histogram(
            "specedge_verify_seconds",
            "One step of the engine",
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._rows = Histogram(
            "specedge_verify_batch_size", "Rows of a step", buckets=ROW_BUCKETS, registry=registry
        )
        # Share of time without a step: rate(specedge_pipeline_stall_seconds_sum[1m])
        self.idle = Histogram(
            "specedge_pipeline_stall_seconds",
            "From the end of a step to the start of the next one, for want of work too",
            buckets=GAP_BUCKETS,
            registry=registry,
        )
        self.failed_steps = Counter(
            "specedge_steps_failed", "Steps that the engine refused or broke off", registry=registry
        )
        self._prefill = Counter(
            "specedge_prompt_tokens", "Tokens computed as prefill", registry=registry
        )
        self._generated = Counter(
            "specedge_generation_tokens", "Tokens committed by verdicts", registry=registry
        )
        # Mean acceptance length: 1 + rate(accepted_tokens) / rate(drafts)
        self._drafts = Counter(
            "specedge_spec_decode_num_drafts", "Drafts answered", registry=registry
        )
        self._drafted = Counter(
            "specedge_spec_decode_num_draft_tokens", "Drafted nodes tried", registry=registry
        )
        self._accepted = Counter(
            "specedge_spec_decode_num_accepted_tokens", "Drafted nodes accepted", registry=registry
        )
        self.dropped = Counter(
            "specedge_messages_dropped",
            "Messages that led to nothing",
            ["reason"],
            registry=registry,
        )
        self.rejected = Counter(
            "specedge_rounds_rejected", "Rounds rejected", ["reason"], registry=registry
        )
        self.cold = Counter(
            "specedge_rounds_cold", "Rounds of sessions not held here", registry=registry
        )
        # Tokens per busy second: rate(generation_tokens[1m]) / rate(verifier_busy_seconds[1m])
        self._busy_s = Counter(
            "specedge_verifier_busy_seconds",
            "Time that the engine computed, the verifier's own drafting included",
            registry=registry,
        )
        self._make_hosted_metrics(registry)
        self._session_counts = _SessionCounts()
        registry.register(self._session_counts)
        self.sessions = Gauge("specedge_sessions", "Sessions held", registry=registry)
        self.running = Gauge(
            "specedge_num_requests_running",
            "Sessions that wait for or are in a step",
            registry=registry,
        )
        self.kv_usage = Gauge(
            "specedge_kv_cache_usage_ratio", "Slots leased, of all", registry=registry
        )
        self.load_s = Gauge(
            "specedge_model_load_seconds", "How long loading the model took", registry=registry
        )

    def _make_hosted_metrics(self, registry: CollectorRegistry) -> None:
        # Mean acceptance length of hosted rounds with a draft: 1 + rate(accepted) / rate(drafts)
        self._hosted_drafts = Counter(
            "specedge_hosted_drafts", "Hosted rounds that tried a draft", registry=registry
        )
        self._hosted_drafted = Counter(
            "specedge_hosted_draft_tokens",
            "Nodes tried that the verifier drafted itself",
            registry=registry,
        )
        self._hosted_accepted = Counter(
            "specedge_hosted_accepted_tokens", "Of these, the accepted ones", registry=registry
        )
        # Share of busy time that drafting takes: rate(…_sum[1m]) / rate(verifier_busy_seconds[1m])
        self._hosted_draft_s = Histogram(
            "specedge_hosted_draft_seconds",
            "Drafting for the hosted rounds of one step, before it",
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._hosted_draft_failures = Counter(
            "specedge_hosted_draft_failures",
            "Hosted rounds whose draft failed; they went on plainly",
            registry=registry,
        )
        self.drafter_works = Gauge(
            "specedge_hosted_drafter_works",
            "1: a drafter of the verifier's own drafts for hosted rounds; 0: none, or given up",
            registry=registry,
        )

    def read_session_counts(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Export what ``read`` returns, at each scrape."""
        self._session_counts.read = read

    def note_step(self, report: StepReport) -> None:
        """Count a step."""
        self._step_s.observe(report.ms / 1000)
        self._rows.observe(report.rows)
        self._prefill.inc(report.prefill)

    def note_turn(self, busy_s: float, draft_s: float, num_failed_drafts: int) -> None:
        """Count a turn of the compute thread; ``draft_s`` of it went into its own drafting."""
        self._busy_s.inc(busy_s)
        self._hosted_draft_failures.inc(num_failed_drafts)
        if draft_s > 0:
            self._hosted_draft_s.observe(draft_s)

    def note_verdict(self, verdict: Verdict, num_new: int) -> None:
        """Count what a verdict committed, ``num_new`` of its tokens for the first time."""
        num_tried = verdict.kept + verdict.own
        self._generated.inc(num_new)
        if num_tried:
            self._drafts.inc()
            self._drafted.inc(num_tried)
            self._accepted.inc(len(verdict.path))
        if verdict.own:
            self._hosted_drafts.inc()
            self._hosted_drafted.inc(verdict.own)
            self._hosted_accepted.inc(len(verdict.path))
