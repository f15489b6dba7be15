"""What ``benchmarks.scale`` computes, and that a scripted fleet is a fleet to a scheduler."""

import pytest

from benchmarks.scale import figures, slope, window_shares
from benchmarks.scale_stack import Outcome
from benchmarks.scrape import Reading


def test_a_steady_memory_has_no_slope_and_a_leak_has_its_own() -> None:
    assert slope([(0.0, 500), (1.0, 500), (2.0, 500)]) == pytest.approx(0.0)
    assert slope([(5.0, 1000), (6.0, 1300), (7.0, 1600)]) == pytest.approx(300.0)
    assert slope([(1.0, 5)]) == 0.0


def test_cost_is_the_process_time_over_the_rounds_passed_on() -> None:
    values = {
        "specedge_request_queue_time_seconds_count": 4000.0,
        "specedge_decision_seconds_count": 1000.0,
        "specedge_decision_seconds_sum": 0.2,
        "specedge_nats_messages_total": 6000.0,
    }
    outcome = Outcome(
        Reading(values, {}), {"scheduler": 0.4, "load": 1.0}, 2.0, [], [], {"refused": 1}
    )

    found = figures(outcome)

    assert found["rounds_per_s"] == 2000.0
    assert found["scheduler_us_per_round"] == 100.0
    assert found["decisions_us_per_round"] == 50.0
    assert found["messages_per_round"] == 1.5
    assert found["load_refused"] == 1.0
    assert "grows_bytes_per_s" not in found
    assert "quietest_us_per_round" not in found


def test_a_neighbour_that_slows_some_seconds_shows_in_their_windows_only() -> None:
    used_s, spent = 0.0, []
    for quarter in range(49):
        spent.append((0.25 * quarter, used_s))
        used_s += 0.25 * (0.6 if 16 <= quarter < 32 else 0.3)

    assert window_shares(spent) == pytest.approx([0.3, 0.6, 0.3])
    assert window_shares([]) == []
