"""The learned cost of a pass by its rows."""

import numpy as np
import pytest

from specedge.drafting.cost_curve import CostCurve

ROWS = np.array([1.0, 4.0, 8.0, 10.0, 12.0, 16.0])


def flat_then_steep(num_rows: float) -> float:
    return 70.0 + 6.0 * max(0.0, num_rows - 8.0)


def test_a_curve_that_is_flat_and_then_steep_is_found_from_noisy_passes() -> None:
    random = np.random.default_rng(0)
    curve = CostCurve()

    for num_rows in random.integers(1, 17, 100):
        curve.observe(int(num_rows), flat_then_steep(num_rows) * random.normal(1.0, 0.03))

    truth = [flat_then_steep(num_rows) for num_rows in ROWS]
    assert curve.at(ROWS) == pytest.approx(truth, rel=0.04)


def test_a_device_with_a_price_of_its_own_for_one_row_is_found_out() -> None:
    random = np.random.default_rng(2)
    curve = CostCurve()

    for num_rows in random.choice([1, 4, 8, 9, 12], 100):
        truth = 60.0 if num_rows == 1 else 100.0 + 4.0 * num_rows
        curve.observe(int(num_rows), truth * random.normal(1.0, 0.03))

    assert curve.at(np.array([1.0]))[0] == pytest.approx(60.0, rel=0.1)
    assert curve.at(np.array([4.0, 8.0, 12.0])) == pytest.approx([116, 132, 148], rel=0.06)


def test_cost_never_falls_with_rows() -> None:
    random = np.random.default_rng(1)
    curve = CostCurve()

    for num_rows in random.integers(1, 30, 50):  # a device that is quicker with more rows
        curve.observe(int(num_rows), 100.0 - float(num_rows) + random.normal(0.0, 5.0))

    cost = curve.at(np.arange(1.0, 64.0))
    assert (np.diff(cost) >= -1e-9).all()


def test_a_device_that_became_slower_is_believed() -> None:
    curve = CostCurve()
    for _ in range(200):
        curve.observe(8, 50.0)

    for _ in range(200):
        curve.observe(8, 100.0)

    assert curve.at(np.array([8.0]))[0] == pytest.approx(100.0, rel=0.15)


@pytest.mark.parametrize("stalled", [1, 3, 6])
def test_a_stall_among_the_first_passes_is_soon_forgotten(stalled: int) -> None:
    curve = CostCurve()
    for number in range(40):
        curve.observe(8, 30_000.0 if number == stalled else 50.0)

    assert curve.at(np.array([8.0]))[0] == pytest.approx(50.0, rel=0.2)


def test_passes_that_once_took_no_time_are_believed_when_they_take_some() -> None:
    curve = CostCurve()
    for number in range(200):
        curve.observe(1, 0.0 if number < 20 else 10.0)

    assert curve.at(np.array([1.0]))[0] == pytest.approx(10.0, rel=0.3)


def test_one_stall_hardly_matters() -> None:
    curve = CostCurve()
    for num_rows in [4, 8] * 20:
        curve.observe(num_rows, 50.0)

    curve.observe(8, 10_000.0)

    assert curve.at(np.array([8.0]))[0] < 56.0


def test_nothing_costs_anything_before_the_first_pass() -> None:
    assert not CostCurve().at(ROWS).any()
