"""The controller against fixed settings, in virtual time: the real drafter, controller and session
machines on a replayed trace. A part of the grid that ``make bench-controller`` measures in full."""

import pytest

from benchmarks.controller_grid import TRACE, Cell, Size, measure_cell
from benchmarks.traces import Trace
from specedge.drafting.rounds import Decision
from specedge.params import DraftPolicy

pytestmark = pytest.mark.timeout(600)  # it computes for long, and others may compute beside

# From nothing known: what is lost to learning is in the figures.
SIZE = Size(sessions=3, tokens=256)
PLAIN = Decision(None, run=64)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.load(TRACE)


def measured(trace: Trace, where: tuple[str, float, float], *trees: str) -> Cell:
    """With plain, and the contenders: the best trees of the full sweep. ``where``: device,
    slowness of the drafter, round trip in milliseconds."""
    sweep = {"plain": PLAIN}
    for tree in trees:
        depth, budget = map(int, tree.split("x"))
        sweep[tree] = Decision(DraftPolicy(depth=depth, budget=budget))
    return measure_cell(trace, where, SIZE, sweep)


@pytest.mark.parametrize(
    ("where", "contender"),
    [
        (("cpu", 1.0, 0.0), "2x3"),
        (("flat", 1.0, 14.0), "2x5"),
        (("flat", 4.0, 0.0), "1x7"),
        (("gpu", 1.0, 14.0), "3x24"),
        (("cpu", 4.0, 14.0), "1x3"),
    ],
    ids=str,
)
def test_it_is_as_quick_as_the_best_fixed_setting_and_never_slower_than_plain(
    trace: Trace, where: tuple[str, float, float], contender: str
) -> None:
    cell = measured(trace, where, contender)

    assert cell.best_share >= 0.95, f"{cell.controller} against {cell.fixed}"
    assert cell.plain_share >= 0.97, f"{cell.controller} against {cell.fixed}"


def test_near_and_quick_it_drafts_and_far_and_slow_it_does_not(trace: Trace) -> None:
    """Guards the test above: its cells do lie on both sides of the border."""
    near, far = measured(trace, ("flat", 1.0, 0.0), "2x5"), measured(trace, ("cpu", 4.0, 150.0))

    assert near.best == "2x5" and near.controller.hosted_share < 0.2
    assert near.plain_share > 1.5
    assert far.controller.hosted_share > 0.8
