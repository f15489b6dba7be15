"""The controller against fixed settings, in virtual time: the real drafter, controller and session
machines on a replayed trace. A part of the grid that ``make bench-controller`` measures in full."""

import pytest

from benchmarks.controller_grid import Cell, Size, measure_cell
from benchmarks.traces import Trace, synthetic_trace
from specedge.drafting.controller import Decision
from specedge.params import DraftPolicy

# From nothing known, on short texts: what is lost to learning is in the figures.
SIZE = Size(sessions=2, tokens=288)
PLAIN = Decision(None, run=64)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace(2048)


def measured(trace: Trace, round_trip_ms: float, slowness: float, *trees: str) -> Cell:
    """With plain, and the contenders: the best trees of the full sweep."""
    sweep = {"plain": PLAIN}
    for tree in trees:
        depth, budget = map(int, tree.split("x"))
        sweep[tree] = Decision(DraftPolicy(depth=depth, budget=budget))
    return measure_cell(trace, ("flat", slowness, round_trip_ms), SIZE, sweep)


@pytest.mark.parametrize(
    ("round_trip_ms", "slowness", "trees"),
    [
        (0.0, 1.0, ("1x7", "2x7")),
        (14.0, 1.0, ("1x7", "2x7")),
        (14.0, 4.0, ("1x7",)),
        (150.0, 1.0, ("2x7",)),
    ],
)
def test_it_is_as_quick_as_the_best_fixed_setting_and_never_slower_than_plain(
    trace: Trace, round_trip_ms: float, slowness: float, trees: tuple[str, ...]
) -> None:
    cell = measured(trace, round_trip_ms, slowness, *trees)

    assert cell.best_share >= 0.95, f"{cell.controller} against {cell.fixed}"
    assert cell.plain_share >= 0.97, f"{cell.controller} against {cell.fixed}"


def test_near_and_quick_it_drafts_and_far_and_slow_it_does_not(trace: Trace) -> None:
    """Guards the test above: its cells do lie on both sides of the border."""
    near, far = measured(trace, 0.0, 1.0, "1x7"), measured(trace, 150.0, 4.0, "1x7")

    assert near.best != "plain" and near.controller.hosted_share < 0.2
    assert far.best == "plain" and far.controller.hosted_share > 0.8
