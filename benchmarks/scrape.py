"""Reads the metrics of a service, and what they counted between two readings."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Samples summed over their labels, and buckets of histograms by upper edge, cumulative."""

    values: Mapping[str, float]
    buckets: Mapping[str, Mapping[float, float]]

    def __add__(self, other: "Reading") -> "Reading":
        """Of two processes together."""
        return _combine(self, other, 1.0)

    def __sub__(self, earlier: "Reading") -> "Reading":
        """What was counted since ``earlier``."""
        return _combine(self, earlier, -1.0)

    def value(self, name: str) -> float:
        """A sample by its full name, ``_total``, ``_sum`` or ``_count`` included; 0 if nobody
        counts it."""
        return self.values.get(name, 0.0)

    def quantile(self, name: str, share: float) -> float | None:
        """Of a histogram, interpolated inside its bucket as PromQL does; None if it saw nothing."""
        buckets = self.buckets.get(name, {})
        total = buckets.get(math.inf, 0.0)
        if total <= 0:
            return None
        wanted, below, before = share * total, 0.0, 0.0
        for edge in sorted(buckets):
            count = buckets[edge]
            if count >= wanted:
                if math.isinf(edge):
                    return below
                return below + (edge - below) * (wanted - before) / max(count - before, 1e-9)
            below, before = edge, count
        return below


def read(base_url: str) -> Reading:
    """GET ``/metrics``. ``base_url`` has no path."""
    response = httpx.get(f"{base_url}/metrics", timeout=TIMEOUT_S, trust_env=False)
    response.raise_for_status()
    return parse(response.text)


def parse(text: str) -> Reading:
    """The text format of Prometheus."""
    values: defaultdict[str, float] = defaultdict(float)
    buckets: defaultdict[str, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                edge = float(sample.labels["le"])
                buckets[sample.name.removesuffix("_bucket")][edge] += sample.value
            else:
                values[sample.name] += sample.value
    return Reading(dict(values), {name: dict(each) for name, each in buckets.items()})


def _combine(one: Reading, other: Reading, sign: float) -> Reading:
    names = {*one.values, *other.values}
    histograms = {*one.buckets, *other.buckets}
    return Reading(
        {name: one.values.get(name, 0.0) + sign * other.values.get(name, 0.0) for name in names},
        {
            name: _combine_buckets(one.buckets.get(name, {}), other.buckets.get(name, {}), sign)
            for name in histograms
        },
    )


def _combine_buckets(
    one: Mapping[float, float], other: Mapping[float, float], sign: float
) -> dict[float, float]:
    return {edge: one.get(edge, 0.0) + sign * other.get(edge, 0.0) for edge in {*one, *other}}
