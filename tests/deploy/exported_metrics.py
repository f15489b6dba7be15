"""Every metric that the services export, read from their own registries: names and labels.

What the exposition adds is added here: a counter's ``_total``, a histogram's ``_bucket``, ``_sum``
and ``_count``, the label ``le``. Labels of scraping (``job``, ``instance``) are not.
"""

import functools
from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from specedge.clock import ManualClock
from specedge.link.memory import MemoryHub
from specedge.service.metrics import ServiceMetrics
from specedge.service.watchdog import LoopWatchdog
from specedge_edge.metrics import EdgeMetrics, StandingCollector
from specedge_edge.standing import DrafterStanding
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_verifier.metrics import VerifierMetrics

SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "gauge": ("",),
}
# Known without any sample, where a metric has none yet.
COLLECTED_LABELS: Final[Mapping[str, set[str]]] = {"specedge_session_events": {"event"}}

Labels = dict[str, set[str]]


@functools.cache
def exported() -> dict[str, Labels]:
    """By service: the labels of each sample's name."""
    return {
        "scheduler": _samples(_registry("scheduler")),
        "verifier": _samples(_registry("verifier")),
        "edge": _samples(_registry("edge")),
    }


def labels_at_start(metric: str) -> list[dict[str, str]]:
    """Of each sample of that name that a service has before anything has happened."""
    return [
        dict(sample.labels)
        for service in exported()
        for family in _registry(service).collect()
        for sample in family.samples
        if sample.name == metric
    ]


def _registry(service: str) -> CollectorRegistry:
    metrics = ServiceMetrics(service)
    metrics.watch_link(MemoryHub(ManualClock()).link("somebody"))
    metrics.watch_loop(LoopWatchdog(ManualClock()))
    match service:
        case "scheduler":
            SchedulerMetrics(metrics.registry)
        case "verifier":
            VerifierMetrics(metrics.registry)
        case "edge":
            EdgeMetrics(metrics.registry, "model")
            metrics.registry.register(StandingCollector(DrafterStanding(None)))
    return metrics.registry


def _samples(registry: CollectorRegistry) -> Labels:
    declared = _declared_labels(registry)
    found: Labels = {}
    for family in registry.collect():
        labels = declared.get(family.name, _seen_labels(family))
        for suffix in SUFFIXES[family.type]:
            found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def _declared_labels(registry: CollectorRegistry) -> Labels:
    collectors: Any = registry._collector_to_names
    return {
        collector._name: set(collector._labelnames)
        for collector in collectors
        if hasattr(collector, "_labelnames")
    } | dict(COLLECTED_LABELS)


def _seen_labels(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels}
