"""When a round's growth stops, and how much of it is sent."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specedge.drafting.growth_rule import GrowthRule
from tests.properties.tree_strategies import relaxed

ROOT = np.ones(1, dtype=np.float32)
NOTHING = np.empty(0, dtype=np.float32)
NODES = np.array([0.6, 0.4, 0.3, 0.2, 0.1, 0.05], dtype=np.float32)


def rule(**changes: object) -> GrowthRule:
    """A step of 50 ms and 5 ms a node, a pass of 10 ms, at 20 tokens a second."""
    base = GrowthRule(
        rate=0.02,
        trust=1.0,
        pass_ms=10.0,
        row_ms=0.0,
        verify_ms=50.0 + 5.0 * np.arange(17.0),
        children=np.tile([0.5, 0.15, 0.05, 0.02], (3, 4, 1)),
    )
    return replace(base, **changes)


def depth_of(frontier: np.ndarray, depth: int = 0) -> np.ndarray:
    return np.full(len(frontier), depth, dtype=np.float32)


def test_a_node_is_sent_if_it_is_worth_more_than_its_row() -> None:
    # A row takes 5 ms, worth 0.1 tokens.
    assert rule().num_sent(np.array([0.6, 0.3, 0.11, 0.09, 0.08], dtype=np.float32)) == 3


def test_nodes_whose_rows_are_free_are_all_sent_whatever_they_are_worth() -> None:
    free = np.full(17, 50.0)

    assert rule(verify_ms=free).num_sent(NODES) == len(NODES)


def test_rows_that_become_dear_after_a_knee_are_filled_up_to_it() -> None:
    knee = 50.0 + 20.0 * np.maximum(np.arange(17.0) - 4, 0)

    assert rule(verify_ms=knee).num_sent(NODES) == 4


def test_no_more_is_sent_than_the_budget() -> None:
    assert rule(verify_ms=np.full(4, 50.0)).num_sent(NODES) == 3
    assert rule(verify_ms=np.full(1, 50.0)).num_sent(NODES) == 0


def test_nodes_that_were_promised_too_much_are_believed_less() -> None:
    value = np.array([0.3, 0.15], dtype=np.float32)

    assert rule().num_sent(value) == 2
    assert rule(trust=0.5).num_sent(value) == 1


def test_the_first_pass_runs_if_its_children_are_worth_more_than_its_time() -> None:
    # Children worth 0.5 + 0.15, less 0.1 a row, against 0.2 for the pass.
    assert rule().num_expanded(NOTHING, ROOT, depth_of(ROOT)) == 1
    assert rule(pass_ms=30.0).num_expanded(NOTHING, ROOT, depth_of(ROOT)) == 0


def test_a_pass_over_unlikely_nodes_is_not_run() -> None:
    likely = np.array([0.9, 0.6], dtype=np.float32)
    unlikely = np.array([0.2, 0.1], dtype=np.float32)

    assert rule().num_expanded(likely, likely, depth_of(likely, 1)) > 0
    assert rule().num_expanded(unlikely, unlikely, depth_of(unlikely, 1)) == 0


def test_dear_rows_of_the_drafter_leave_only_the_best_nodes_to_expand() -> None:
    frontier = np.array([0.9, 0.3, 0.3, 0.3], dtype=np.float32)
    free = rule(verify_ms=np.full(17, 50.0), pass_ms=0.0)

    assert free.num_expanded(frontier, frontier, depth_of(frontier, 1)) == 4
    dear = replace(free, row_ms=15.0)
    assert dear.num_expanded(frontier, frontier, depth_of(frontier, 1)) == 1


def test_growth_of_a_long_round_trip_goes_deeper() -> None:
    """The rate falls with the round trip, and with it what a pass must bring."""

    def levels(round_trip_ms: float) -> int:
        at = rule(rate=2.5 / (60.0 + round_trip_ms), verify_ms=np.full(33, 50.0))
        value, depth = 1.0, 0
        while at.num_expanded(
            np.full(depth, value, dtype=np.float32),
            np.array([value], dtype=np.float32),
            depth_of(ROOT, depth),
        ):
            value, depth = 0.6 * value, depth + 1
        return depth

    depths = [levels(round_trip_ms) for round_trip_ms in (10, 40, 160, 640)]
    assert depths == sorted(depths) and depths[0] < depths[-1]
    assert np.diff(depths).max() <= 4, "logarithmic: a fourfold delay adds a few levels"


@given(
    st.lists(st.floats(0.0, 1.0, width=32), max_size=20),
    st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20),
    st.floats(0.001, 0.1),
)
@relaxed
def test_no_prefix_is_worth_more_than_the_one_sent(
    values: list[float], row_ms: list[float], rate: float
) -> None:
    value = np.array(sorted(values, reverse=True), dtype=np.float32)
    verify_ms = 50.0 + np.concatenate([[0.0], np.cumsum(row_ms)])
    at = rule(rate=rate, verify_ms=verify_ms)

    sent = at.num_sent(value)

    def worth(num: int) -> float:
        return float(value[:num].astype(np.float64).sum() - rate * verify_ms[num])

    most = min(len(value), at.budget)
    assert 0 <= sent <= most
    assert worth(sent) == pytest.approx(max(worth(num) for num in range(most + 1)), abs=1e-9)


@given(
    st.lists(st.floats(0.0, 1.0, width=32), max_size=20),
    st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20),
    st.floats(0.0, 30.0),
)
@relaxed
def test_a_pass_is_weighed_by_what_could_be_sent_after_it(
    there: list[float], open_: list[float], row_ms: list[float], pass_ms: float
) -> None:
    """Against the plain way: all old and new nodes sorted together, for every choice."""
    value = np.array(sorted(there, reverse=True), dtype=np.float32)
    frontier = np.array(sorted(open_, reverse=True), dtype=np.float32)
    verify_ms = 50.0 + np.concatenate([[0.0], np.cumsum(row_ms)])
    at = rule(verify_ms=verify_ms, pass_ms=pass_ms, row_ms=4.0)
    price = at.rate * (verify_ms - verify_ms[0])

    def worth(num_expanded: int) -> float:
        born = [node * share for node in frontier[:num_expanded] for share in at.children[0, 0]]
        best = sorted([*value.tolist(), *born], reverse=True)[: at.budget]
        gained = np.concatenate([[0.0], np.cumsum(best)])
        passed_ms = pass_ms + 4.0 * num_expanded if num_expanded else 0.0
        return float((gained - price[: len(gained)]).max() - at.rate * passed_ms)

    num = at.num_expanded(value, frontier, depth_of(frontier))

    choices = {0} | {len(frontier) >> halved for halved in range(3)}
    assert worth(num) == pytest.approx(max(map(worth, choices)), abs=1e-6)


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=8), st.integers(0, 9))
@relaxed
def test_a_pass_expands_a_prefix_of_the_frontier(values: list[float], depth: int) -> None:
    frontier = np.array(sorted(values, reverse=True), dtype=np.float32)

    num = rule().num_expanded(frontier, frontier, depth_of(frontier, depth))

    assert 0 <= num <= len(frontier)
