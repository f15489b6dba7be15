"""The edge's Prometheus metrics.

Native names start with ``specedge_``; with ``compat`` the same figures also appear under vLLM's
names, which dashboards and benchmark tools know. Useful queries:

acceptance rate     rate(specedge_spec_decode_num_accepted_tokens_total[5m])
                    / rate(specedge_spec_decode_num_draft_tokens_total[5m])
acceptance length   1 + rate(specedge_spec_decode_num_accepted_tokens_total[5m])
                    / rate(specedge_spec_decode_num_drafts_total[5m])
per position        rate(specedge_spec_decode_num_accepted_tokens_per_pos_total[5m])
                    / ignoring(position) group_left rate(specedge_spec_decode_num_drafts_total[5m])
hit rate            rate(specedge_draft_hits_total[5m]) / rate(specedge_draft_verdicts_total[5m])
sent ahead, used    rate(specedge_drafts_ahead_used_total[5m])
                    / rate(specedge_drafts_ahead_total[5m])
drafting hidden     rate(specedge_draft_saved_seconds_total[5m])
refused             rate(specedge_http_responses_total{status=~"[45].*"}[5m])
reply path, p99     histogram_quantile(0.99, rate(specedge_reply_seconds_bucket[5m]))
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from specedge_edge.account import MS_PER_S, Account
from specedge_edge.standing import DrafterStanding

NATIVE: Final = "specedge_"
VLLM: Final = "vllm:"
LABELS: Final = ("model_name",)

TTFT_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
ROUND_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0),
)


# Fine where replies are: at p99 they are compared to within a pass of a small drafter.
REPLY_BUCKETS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.0175),
    *(0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0),
)


class EdgeMetrics:
    """Written on the event loop when a request ends; never inside a round."""

    def __init__(
        self, registry: CollectorRegistry, model_name: str, *, compat: bool = True
    ) -> None:
        self._families = [_Family(registry, NATIVE, model_name)]
        if compat:
            self._families.append(_Family(registry, VLLM, model_name))
        self._own = _OwnFigures(registry, model_name)

    def on_started(self, num_choices: int) -> None:
        """A request was taken."""
        for family in self._families:
            family.running.inc(num_choices)

    def on_finished(self, reason: str, prompt_tokens: int, account: Account) -> None:
        """A choice ended: ``stop``, ``length``, ``abort`` or ``error``."""
        for family in self._families:
            family.prompt_tokens.inc(prompt_tokens)
            family.on_finished(reason, account)
        self._own.on_finished(account)

    def on_ended(self, num_choices: int) -> None:
        """A request is over, however it ended."""
        for family in self._families:
            family.running.dec(num_choices)


class _Family:
    """The figures that vLLM has too, under one prefix."""

    def __init__(self, registry: CollectorRegistry, prefix: str, model_name: str) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(prefix + name, text, LABELS, registry=registry).labels(model_name)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(prefix + name, text, LABELS, buckets=buckets, registry=registry)
            return made.labels(model_name)

        gauge = Gauge(
            prefix + "num_requests_running", "Choices being generated.", LABELS, registry=registry
        )
        self.running = gauge.labels(model_name)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens taken.")
        self._tokens = counter("generation_tokens", "Tokens generated.")
        self._model_name = model_name
        self._success = Counter(
            prefix + "request_success",
            "Choices ended, by reason.",
            (*LABELS, "finished_reason"),
            registry=registry,
        )
        self._drafts = counter("spec_decode_num_drafts", "Drafted trees that were verified.")
        self._draft_tokens = counter("spec_decode_num_draft_tokens", "Drafted tokens verified.")
        self._accepted = counter("spec_decode_num_accepted_tokens", "Drafted tokens accepted.")
        self._per_position = Counter(
            prefix + "spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens accepted, by their 0-based place in the draft.",
            (*LABELS, "position"),
            registry=registry,
        )
        self._first = histogram(
            "time_to_first_token_seconds", "From the request to its first token.", TTFT_BUCKETS
        )
        self._between = histogram(
            "inter_token_latency_seconds",
            "Time between two verdicts, whatever tokens they bring: as vLLM counts its steps.",
            TOKEN_BUCKETS,
        )
        self._per_token = histogram(
            "request_time_per_output_token_seconds",
            "Mean time per token after the first, per choice.",
            TOKEN_BUCKETS,
        )
        self._whole = histogram(
            "e2e_request_latency_seconds", "From the request to its last token.", REQUEST_BUCKETS
        )
        self._queue = histogram(
            "request_queue_time_seconds", "Waited before the first step.", REQUEST_BUCKETS
        )

    def on_finished(self, reason: str, account: Account) -> None:
        self._success.labels(self._model_name, reason).inc()
        self._tokens.inc(account.num_tokens)
        self._count_speculation(account)
        if (first_s := account.time_to_first_token_s) is not None:
            self._first.observe(first_s)
            self._whole.observe(account.generation_s)
        if (per_token_s := account.time_per_token_s) is not None:
            self._per_token.observe(per_token_s)
        for gap_s in account.gaps_s:
            self._between.observe(gap_s)
        if account.first_queue_ms is not None:
            self._queue.observe(account.first_queue_ms / MS_PER_S)

    def _count_speculation(self, account: Account) -> None:
        self._drafts.inc(len(account.accepted_counts))
        self._draft_tokens.inc(account.num_drafted)
        self._accepted.inc(account.num_accepted)
        for position in range(max(account.accepted_counts, default=0)):
            reached = sum(count > position for count in account.accepted_counts)
            self._per_position.labels(self._model_name, str(position)).inc(reached)


class _OwnFigures:
    """What only SpecEdge has."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(NATIVE + name, text, LABELS, registry=registry).labels(model_name)

        self._rounds = counter("rounds", "Verdicts received.")
        self._hosted = counter("hosted_tokens", "Tokens generated without a draft of this edge.")
        self._retries = counter("round_retries", "Rounds said again.")
        self._resyncs = counter("session_resyncs", "Contexts sent again to a cold verifier.")
        self._draft_s = counter("draft_seconds", "Time spent drafting, before sending.")
        self._network_s = counter("network_seconds", "Round trips, less queue and step.")
        self._verify_s = counter("verify_seconds", "Steps that this edge's rounds were part of.")
        self._bytes_up = counter("draft_bytes", "Payload of drafts sent.")
        self._bytes_down = counter("answer_bytes", "Payload of answers received.")
        self._verdicts = counter("draft_verdicts", "Verdicts on rounds of this edge's drafter.")
        self._hits = counter("draft_hits", "Those whose bonus token had been drafted already.")
        self._reused = counter("draft_nodes_reused", "Nodes that outlived a verdict.")
        self._passes = counter("draft_passes", "Passes of the drafter before a draft left.")
        self._ahead = counter("draft_passes_ahead", "Passes while a draft was out.")
        self._saved = counter("draft_passes_saved", "Passes that a round need not run any more.")
        self._saved_s = counter("draft_saved_seconds", "The time of those.")
        self._sent_ahead = counter("drafts_ahead", "Drafts sent ahead of a verdict.")
        self._used_ahead = counter("drafts_ahead_used", "Those that the verifier went on from.")
        reply = Histogram(
            NATIVE + "reply_seconds",
            "From a verdict's arrival to the next draft's departure.",
            LABELS,
            buckets=REPLY_BUCKETS,
            registry=registry,
        )
        self._reply = reply.labels(model_name)
        trip = Histogram(
            NATIVE + "network_round_trip_seconds",
            "Mean network part of a round, per choice.",
            LABELS,
            buckets=ROUND_BUCKETS,
            registry=registry,
        )
        self._trip = trip.labels(model_name)

    def on_finished(self, account: Account) -> None:
        self._rounds.inc(account.rounds)
        self._hosted.inc(account.hosted_tokens)
        self._retries.inc(account.retries)
        self._resyncs.inc(account.resyncs)
        self._draft_s.inc(account.draft_ms / MS_PER_S)
        self._network_s.inc(account.network_ms / MS_PER_S)
        self._verify_s.inc(account.verify_ms / MS_PER_S)
        self._bytes_up.inc(account.bytes_up)
        self._bytes_down.inc(account.bytes_down)
        self._count_drafting(account)
        if account.num_trips:
            self._trip.observe(account.network_ms / MS_PER_S / account.num_trips)

    def _count_drafting(self, account: Account) -> None:
        counts = account.drafting
        self._verdicts.inc(counts.verdicts)
        self._hits.inc(counts.hits)
        self._reused.inc(counts.nodes_reused)
        self._passes.inc(counts.passes)
        self._ahead.inc(counts.passes_ahead)
        self._saved.inc(counts.passes_saved)
        self._saved_s.inc(account.saved_ms / MS_PER_S)
        self._sent_ahead.inc(account.ahead_sent)
        self._used_ahead.inc(account.ahead_used)
        for reply_ms in account.reply_ms:
            self._reply.observe(reply_ms / MS_PER_S)


class HttpMetrics:
    """specedge_http_responses_total, by status; those to probes are left out."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._responses = Counter(
            NATIVE + "http_responses", "Answers over HTTP.", ("status",), registry=registry
        )

    def on_response(self, status: int) -> None:
        """An answer has begun."""
        self._responses.labels(str(status)).inc()


class StandingCollector(Collector):
    """How the drafter stands, read when asked.

    specedge_drafter_serves           0 while it rests or is missing: sessions are hosted
    specedge_drafter_failures_total   rounds it failed in; alert on ``increase(...[10m]) > 0``
    specedge_drafter_refusals_total   rounds it had no room for: raise ``draft_kv_bytes``
    """

    def __init__(self, standing: DrafterStanding) -> None:
        self._standing = standing

    def collect(self) -> Iterable[Metric]:
        """See ``Collector.collect``."""
        standing = self._standing
        yield GaugeMetricFamily(
            NATIVE + "drafter_serves",
            "0 while the drafter that was asked for rests or is missing.",
            value=float(standing.problem is None),
        )
        yield CounterMetricFamily(
            NATIVE + "drafter_failures",
            "Rounds that the drafter failed in.",
            value=standing.num_failures,
        )
        yield CounterMetricFamily(
            NATIVE + "drafter_refusals",
            "Rounds that the drafter had no room for.",
            value=standing.num_refusals,
        )
