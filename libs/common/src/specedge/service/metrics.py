"""A service's Prometheus registry: what every service counts, and where it adds its own.

Names are ``specedge_<what>_<unit>``, counters end in ``_total``, base units are seconds and bytes.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Info, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from specedge import __version__
from specedge.link.base import Link
from specedge.service.watchdog import LoopWatchdog

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class ServiceMetrics:
    """The registry of one process. A service makes its own metrics with ``registry=…registry``."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        build = Info("specedge_build", "Which build runs.", registry=self.registry)
        build.info({"version": __version__, "service": service})
        self._link = _LinkCollector()
        self.registry.register(self._link)

    def expect_link(self) -> None:
        """Say that there is no connection, until there is a link to watch: alerts ask for it."""
        self._link.is_expected = True

    def watch_link(self, link: Link) -> None:
        """Export a link's counters. One link for each registry."""
        self._link.link = link

    def watch_loop(self, watchdog: LoopWatchdog) -> None:
        """Export how late the event loop runs."""
        self.registry.register(_LoopCollector(watchdog))

    def exposition(self) -> bytes:
        """The body of ``/metrics``, of type ``CONTENT_TYPE``."""
        return generate_latest(self.registry)


class LoopHistogram(Collector):
    """A histogram without labels that only the event loop feeds: no locks, and buckets are summed
    up when somebody asks. It takes a fifth of what the library's own takes, where that counts."""

    def __init__(
        self, name: str, text: str, *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._edges = tuple(buckets)
        self._counts = [0] * (len(self._edges) + 1)  # the last is beyond all edges
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """Count one value. On the loop only."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count several. On the loop only."""
        edges, counts = self._edges, self._counts
        for value in values:
            counts[bisect_left(edges, value)] += 1
        self._sum += sum(values)

    def collect(self) -> Iterable[Metric]:
        """See ``Collector.collect``."""
        names = [*map(floatToGoString, self._edges), "+Inf"]
        family = HistogramMetricFamily(self._name, self._text)
        cumulative = [float(count) for count in accumulate(self._counts)]
        family.add_metric([], list(zip(names, cumulative, strict=True)), self._sum)
        yield family


class _LinkCollector(Collector):
    """Reads the counters when asked, so that the hot path pays for nothing.

    specedge_nats_connected              0 or 1; alert on ``min_over_time(...[1m]) == 0``
    specedge_nats_messages_total         ``rate(...{direction="out"}[1m])``
    specedge_nats_message_bytes_total    payload only; over messages: the mean size
    specedge_nats_reconnects_total       ``increase(...[10m]) > 3``: a bad network or broker
    specedge_nats_errors_total           by kind; ``dropped_in`` means that this process is too slow
    """

    def __init__(self) -> None:
        self.link: Link | None = None
        self.is_expected = False

    def collect(self) -> Iterable[Metric]:
        """See ``Collector.collect``."""
        if self.link is None and not self.is_expected:
            return
        yield GaugeMetricFamily(
            "specedge_nats_connected",
            "Whether a message would be sent now.",
            value=float(self.link is not None and self.link.is_connected),
        )
        if self.link is None:
            return
        counters = self.link.counters
        yield CounterMetricFamily(
            "specedge_nats_reconnects",
            "Connections lost and won back.",
            value=counters.reconnects,
        )
        yield _by_label(
            "specedge_nats_messages",
            "Messages to and from the broker.",
            "direction",
            {"in": counters.messages_in, "out": counters.messages_out},
        )
        yield _by_label(
            "specedge_nats_message_bytes",
            "Their payload.",
            "direction",
            {"in": counters.bytes_in, "out": counters.bytes_out},
        )
        yield _by_label(
            "specedge_nats_errors",
            "Messages lost or refused, and handlers that failed.",
            "kind",
            {
                "dropped_in": counters.dropped_in,
                "refused_out": counters.refused_out,
                "handler_error": counters.handler_errors,
                "permission_denied": counters.permission_denials,
            },
        )


class _LoopCollector(Collector):
    """specedge_event_loop_lag_seconds: the worst since the last scrape; above 0.1, the loop does
    work that belongs on a thread."""

    def __init__(self, watchdog: LoopWatchdog) -> None:
        self._watchdog = watchdog

    def collect(self) -> Iterable[Metric]:
        """See ``Collector.collect``."""
        yield GaugeMetricFamily(
            "specedge_event_loop_lag_seconds",
            "Worst lateness of the event loop since the last scrape.",
            value=self._watchdog.take_worst_lag_s(),
        )


def _by_label(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
