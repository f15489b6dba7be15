"""The time of an emulated device: what it is given to do is done when its costs say so.

What the host computes between two passes of one turn runs beside the device, as it does beside a
real one whose work is launched ahead; so the emulation's own arithmetic costs no device time as
long as it is quicker. Between turns the device waits for the host. Imports no torch.
"""

import time
from collections.abc import Callable

# A sleep ends late by about so much; the rest is waited for actively, so that steps end in time.
SLEEP_GRAIN_S = 0.0002
# A turn that was broken off, by a step without memory for example, is not gone on with.
BROKEN_OFF_S = 0.25


def sleep_until(when_s: float) -> None:
    """Until ``time.perf_counter()`` says so, to some microseconds."""
    while (left_s := when_s - time.perf_counter()) > 0:
        if left_s > SLEEP_GRAIN_S:
            time.sleep(left_s - SLEEP_GRAIN_S)


class EmulatedDevice:
    """One device, on the thread that owns it. A turn is any number of passes, then one step.

    late_s  by how much the host's arithmetic was slower than the device, in all
    """

    def __init__(
        self,
        now_s: Callable[[], float] = time.perf_counter,
        wait_until: Callable[[float], None] = sleep_until,
    ) -> None:
        self._now_s = now_s
        self._wait_until = wait_until
        self._free_s: float | None = None  # None: between turns
        self.late_s = 0.0

    def begin(self) -> None:
        """The host has something for the device to do. Within a turn nothing happens."""
        now_s = self._now_s()
        if self._free_s is None or now_s - self._free_s > BROKEN_OFF_S:
            self._free_s = now_s

    def run(self, seconds: float) -> None:
        """Be busy for so long, from the end of what was done before in this turn. Returns then."""
        self.begin()
        assert self._free_s is not None
        self._free_s += seconds
        now_s = self._now_s()
        if now_s > self._free_s:
            self.late_s += now_s - self._free_s
            self._free_s = now_s
        self._wait_until(self._free_s)

    def end(self, seconds: float) -> None:
        """As ``run``; the turn ends with it."""
        self.run(seconds)
        self._free_s = None
