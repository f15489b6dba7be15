"""When sessions come: open loop, so that a slow system is not spared its users. Pure."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

BURST: Final = 4.0  # times the mean rate, in a burst
CALM: Final = 0.25  # times the mean rate, between bursts


def poisson(rate_per_s: float, seed: int) -> Iterator[float]:
    """Moments from 0 on, without end: independent arrivals at a mean rate."""
    random = Random(seed)
    at_s = 0.0
    while True:
        at_s += random.expovariate(rate_per_s)
        yield at_s


def replayed(moments_s: Sequence[float]) -> Iterator[float]:
    """A recorded trace, once."""
    yield from sorted(moments_s)


def bursty_trace(
    rate_per_s: float, length_s: float, *, burst_s: float = 2.0, seed: int = 0
) -> list[float]:
    """Moments within ``length_s``: bursts of about ``burst_s`` at four times the mean rate, calm
    stretches between them, so long that the mean is ``rate_per_s``."""
    random = Random(seed)
    calm_s = burst_s * (BURST - 1.0) / (1.0 - CALM)
    moments: list[float] = []
    at_s, is_burst = 0.0, False
    while at_s < length_s:
        ends_s = at_s + random.expovariate(1.0 / (burst_s if is_burst else calm_s))
        rate = rate_per_s * (BURST if is_burst else CALM)
        while (at_s := at_s + random.expovariate(rate)) < min(ends_s, length_s):
            moments.append(at_s)
        at_s, is_burst = ends_s, not is_burst
    return moments
