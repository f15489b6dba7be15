"""The time of an emulated device: the host's arithmetic runs beside it, within a turn only."""

import pytest

from specedge.engine.emulated import EmulatedDevice


class Host:
    """A clock that moves when the host computes or waits."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.device = EmulatedDevice(lambda: self.now_s, self._wait_until)

    def compute(self, seconds: float) -> None:
        self.now_s += seconds

    def _wait_until(self, when_s: float) -> None:
        self.now_s = max(self.now_s, when_s)


def test_arithmetic_between_the_passes_of_a_turn_costs_nothing() -> None:
    host = Host()

    host.device.begin()
    for _ in range(3):
        host.compute(0.004)
        host.device.run(0.011)
    host.compute(0.002)
    host.device.end(0.050)

    assert host.now_s == pytest.approx(100.0 + 3 * 0.011 + 0.050)
    assert host.device.late_s == 0.0


def test_arithmetic_between_turns_is_waited_for() -> None:
    host = Host()
    host.device.end(0.050)

    host.compute(0.004)
    host.device.begin()
    host.device.end(0.050)

    assert host.now_s == pytest.approx(100.0 + 0.104)


def test_a_turn_that_was_broken_off_is_not_gone_on_with() -> None:
    host = Host()
    host.device.run(0.011)  # a draft, and then no step

    host.compute(3.0)
    host.device.begin()
    host.device.end(0.050)

    assert host.now_s == pytest.approx(100.0 + 0.011 + 3.0 + 0.050)
    assert host.device.late_s == 0.0


def test_a_host_slower_than_its_device_is_seen() -> None:
    host = Host()

    host.device.begin()
    host.compute(0.030)
    host.device.run(0.011)
    host.device.end(0.011)

    assert host.now_s == pytest.approx(100.0 + 0.030 + 0.011)
    assert host.device.late_s == pytest.approx(0.019)
