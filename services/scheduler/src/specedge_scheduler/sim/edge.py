"""An edge in virtual time: who it is, its one device, what its link does to a message, when its
sessions begin.

What a session does is its own affair; the world lets it begin, and carries what it says.
"""

import math
from collections.abc import Callable
from typing import Final

from specedge.ids import EdgeId
from specedge_scheduler.sim.draws import Stream
from specedge_scheduler.sim.edge_device import SimDevice
from specedge_scheduler.sim.scenario import EdgeSpec

_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


class SimEdge:
    """One edge: its link, its device, and how many sessions it has opened."""

    def __init__(self, spec: EdgeSpec, number: int, seed: int) -> None:
        self.spec = spec
        self.number = number
        self.id = edge_id(number)
        self.is_gone = False
        self.device = SimDevice(spec.draft_pass_ms / 1000)
        self._link = spec.link_spec
        self._delays = Stream(seed, number, 1)
        self._arrivals = Stream(seed, number, 2)
        self.host = Stream(seed, number, 5)
        self.num_sessions = 0

    def delay_s(self) -> float | None:
        """How long one message takes one way; None: it is lost."""
        link = self._link
        if link.loss and self._delays.uniform() < link.loss:
            return None
        one_way_ms = link.round_trip_ms / 2
        if link.jitter_ms:
            one_way_ms = max(0.0, one_way_ms + link.jitter_ms * self._delays.normal())
        return one_way_ms / 1000

    def draw(self) -> float:
        """For its arrivals."""
        return self._arrivals.uniform()


def next_arrival_s(spec: EdgeSpec, draw: Callable[[], float], now_s: float) -> float:
    """When a session after ``now_s`` begins, if sessions come by themselves."""
    load = spec.load
    if load.kind == "poisson":
        return now_s - math.log(draw()) / load.per_s
    # In a burst sessions come faster by as much as it is shorter than its period; time between
    # bursts does not count.
    burst_s = load.period_s * load.burst_share
    in_bursts_s = (now_s // load.period_s) * burst_s + min(now_s % load.period_s, burst_s)
    in_bursts_s -= math.log(draw()) / (load.per_s / load.burst_share)
    return (in_bursts_s // burst_s) * load.period_s + in_bursts_s % burst_s


def edge_id(number: int) -> EdgeId:
    """A well-formed public key that nobody holds."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 32)
        digits = _BASE32[digit] + digits
    return EdgeId("U" + "A" * (55 - len(digits)) + digits)
