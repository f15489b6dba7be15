"""When verdicts are due, what a pass takes, and when what is sent ahead has to leave."""

import math
from collections.abc import Callable

import pytest

from specedge_edge.proactive import LEAST_MARGIN_S, PassTime, TripTimes


def test_a_verdict_is_due_after_the_usual_time_once_the_prompt_is_behind() -> None:
    trips = TripTimes()
    first = trips.session()
    assert first.due_s(1.0) is None

    first.observe(9.0)  # with the prompt's prefill
    assert first.due_s(1.0) is None
    first.observe(0.5)
    assert first.due_s(1.0) == 1.5

    second = trips.session()
    assert second.due_s(1.0) is None
    second.observe(9.0)
    assert second.due_s(1.0) == 1.5


def measured(*values: float) -> Callable[[], float]:
    pass_time = PassTime()
    for value in values:
        pass_time.add(value, 1)
    return lambda: pass_time.seconds


def test_the_time_of_a_pass_follows_what_is_measured() -> None:
    assert measured()() == 0.0
    assert measured(0.01)() == 0.01
    assert 0.01 < measured(0.01, 0.02)() < 0.012
    assert measured(0.01, *[0.03] * 60)() == pytest.approx(0.03, rel=0.01)


def timed(row_s: float, widths: tuple[int, ...] = (1, 8, 3, 8, 2, 8, 4)) -> PassTime:
    """Of a device whose passes take 3 ms, and ``row_s`` for each row."""
    pass_time = PassTime()
    for num_rows in widths * 12:
        pass_time.add(0.003 + row_s * num_rows, num_rows)
    return pass_time


def test_the_time_of_a_pass_is_told_by_its_rows() -> None:
    pass_time = timed(row_s=0.001)

    assert pass_time.of(1) == pytest.approx(0.004, rel=0.1)
    assert pass_time.of(8) == pytest.approx(0.011, rel=0.1)
    assert timed(0.0).of(1) == timed(0.0).of(8) == pytest.approx(0.003)


def test_a_pass_is_as_wide_as_there_is_time_for() -> None:
    pass_time = timed(row_s=0.001)

    assert pass_time.rows_within(0.0035) < 1
    assert 1 <= pass_time.rows_within(0.0045) < 3
    assert pass_time.rows_within(0.0081) == pytest.approx(5.0, abs=0.7)


def test_where_rows_cost_next_to_nothing_a_pass_is_wide_or_not_at_all() -> None:
    pass_time = timed(row_s=0.00001)

    assert pass_time.rows_within(0.002) == 0
    assert pass_time.rows_within(0.004) == math.inf
    assert PassTime().rows_within(0.0) == math.inf, "nothing is known"


def test_passes_of_one_width_say_nothing_of_others() -> None:
    pass_time = timed(0.001, widths=(4,))

    assert pass_time.of(1) == pass_time.of(8) == pytest.approx(0.007)


def test_what_is_sent_ahead_leaves_a_round_trip_before_the_verdict_is_due() -> None:
    trips = TripTimes().session()
    assert trips.leave_by_s(trips.due_s(0.0)) is None
    for _ in range(3):  # the first one does not count
        trips.observe(0.080, cloud_s=0.060)

    due_s = trips.due_s(1.0)

    assert due_s == pytest.approx(1.080)
    assert trips.leave_by_s(due_s) == pytest.approx(1.060 - LEAST_MARGIN_S)


def test_a_verdict_on_a_round_that_was_sent_ahead_is_due_a_step_after_the_one_before() -> None:
    trips = TripTimes().session()
    for _ in range(3):
        trips.observe(0.080, cloud_s=0.060)

    assert trips.due_after_s(1.0) == pytest.approx(1.060)
    trips.observe_gap(0.050)
    assert trips.due_after_s(1.0) == pytest.approx(1.050)


def test_where_verdicts_come_irregularly_it_leaves_earlier() -> None:
    trips = TripTimes().session()
    for round_trip_s in (0.08, 0.08, 0.10, 0.06, 0.10, 0.06):
        trips.observe(round_trip_s, cloud_s=0.05)
    steady = TripTimes().session()
    for _ in range(6):
        steady.observe(0.08, cloud_s=0.05)

    assert 1.0 - trips.leave_by_s(1.0) > 1.02 - steady.leave_by_s(1.0)
