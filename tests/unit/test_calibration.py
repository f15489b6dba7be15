"""What verdicts teach of a drafter's scores."""

import json

import numpy as np
import pytest

from specedge.tree.calibration import Calibration, Outcomes, ScoreKind, Tally, outcomes
from specedge.tree.token_tree import TokenTree


def row(*probabilities: float) -> np.ndarray:
    return np.log(np.array([probabilities])).astype(np.float32)


def at_depth(depth: int) -> np.ndarray:
    return np.array([depth], dtype=np.int32)


def verdicts(p: float, accepted: int, tried: int, rank: int = 0, depth: int = 1) -> Outcomes:
    return Outcomes(
        np.full(tried, np.log(p), dtype=np.float32),
        np.full(tried, rank, dtype=np.int32),
        np.full(tried, depth, dtype=np.int32),
        np.arange(tried) < accepted,
    )


def test_before_any_verdict_the_prior_holds() -> None:
    estimate = Calibration(agreement=0.8).accept(row(0.5, 0.25), at_depth(1))

    np.testing.assert_allclose(estimate, [[0.4, 0.2]], rtol=1e-6)


def test_many_verdicts_outweigh_the_prior() -> None:
    calibration = Calibration()
    for _ in range(20):
        calibration.observe(verdicts(0.5, accepted=10, tried=100))

    assert calibration.accept(row(0.5), at_depth(1))[0, 0] == pytest.approx(0.1, abs=0.02)


def test_rank_and_score_are_told_apart() -> None:
    tally = Tally()
    teacher = Calibration(tally)
    teacher.observe(verdicts(0.4, accepted=900, tried=1000, rank=0))
    teacher.observe(verdicts(0.4, accepted=50, tried=1000, rank=1))

    first, second = Calibration(tally).accept(row(0.4, 0.4), at_depth(1))[0]

    assert first > 0.8
    assert second < 0.1


def test_depths_are_told_apart_by_what_all_sessions_learned() -> None:
    tally = Tally()
    teacher = Calibration(tally)
    teacher.observe(verdicts(0.5, accepted=900, tried=1000, depth=1))
    teacher.observe(verdicts(0.5, accepted=100, tried=1000, depth=6))

    pupil = Calibration(tally)

    assert pupil.accept(row(0.5), at_depth(1))[0, 0] > 0.85
    assert pupil.accept(row(0.5), at_depth(6))[0, 0] < 0.15


def test_a_session_differs_from_what_all_sessions_learned() -> None:
    tally = Tally()
    for _ in range(10):
        Calibration(tally).observe(verdicts(0.5, accepted=50, tried=100))
    easy, hard = Calibration(tally), Calibration(tally)
    easy.observe(verdicts(0.5, accepted=100, tried=100))
    hard.observe(verdicts(0.5, accepted=0, tried=100))

    easy_estimate = easy.accept(row(0.5), at_depth(1))[0, 0]
    hard_estimate = hard.accept(row(0.5), at_depth(1))[0, 0]

    assert easy_estimate > 0.8
    assert hard_estimate < 0.2


@pytest.mark.parametrize(("is_right", "low", "high"), [(True, 1.2, 2.0), (False, 0.3, 0.8)])
def test_a_few_verdicts_on_some_nodes_move_what_a_session_expects_of_all(
    is_right: bool, low: float, high: float
) -> None:
    tally = Tally()
    teacher = Calibration(tally)
    for p in (0.5, 0.2):
        teacher.observe(verdicts(p, accepted=int(1000 * p), tried=1000))
    before = Calibration(tally).accept(row(0.2), at_depth(1))[0, 0]
    session = Calibration(tally)

    for _ in range(6):
        session.observe(verdicts(0.5, accepted=int(is_right), tried=1))

    assert low < session.accept(row(0.2), at_depth(1))[0, 0] / before < high


def test_a_long_session_that_becomes_hard_is_believed_within_some_rounds() -> None:
    session = Calibration()
    for _ in range(100):
        session.observe(verdicts(0.5, accepted=1, tried=1))
    easy = session.accept(row(0.2), at_depth(1))[0, 0]

    for _ in range(30):
        session.observe(verdicts(0.5, accepted=0, tried=1))

    assert session.accept(row(0.2), at_depth(1))[0, 0] < 0.5 * easy


def test_siblings_never_sum_to_more_than_one() -> None:
    calibration = Calibration()
    for rank in range(4):
        calibration.observe(verdicts(0.2, accepted=900, tried=1000, rank=rank))

    estimate = calibration.accept(row(0.2, 0.2, 0.2, 0.2), at_depth(1))

    assert estimate.dtype == np.float32
    assert estimate.sum() == pytest.approx(1.0, abs=1e-5)


def test_missing_children_take_nothing_from_their_siblings() -> None:
    tally = Tally()
    # Even if the worst scores were always right so far.
    Calibration(tally).observe(verdicts(1e-9, accepted=1000, tried=1000, rank=1))
    scores = np.array([[np.log(0.5), -np.inf, -np.inf]], dtype=np.float32)

    estimate = Calibration(tally, agreement=1.0).accept(scores, at_depth(1))

    np.testing.assert_allclose(estimate, [[0.5, 0.0, 0.0]], rtol=1e-6)


def test_scores_that_are_no_log_probabilities_are_bounded() -> None:
    estimate = Calibration().accept(np.array([[7.5, 3.0, -40.0]], np.float32), at_depth(9))

    assert ((estimate >= 0) & (estimate <= 1)).all()
    assert estimate.sum() <= 1.00001


def test_old_verdicts_are_forgotten() -> None:
    calibration = Calibration()
    for _ in range(200):
        calibration.observe(verdicts(0.5, accepted=100, tried=100))
    for _ in range(200):
        calibration.observe(verdicts(0.5, accepted=0, tried=100))

    assert calibration.accept(row(0.5), at_depth(1))[0, 0] < 0.1


def test_what_was_learned_survives_being_written_down() -> None:
    tally = Tally()
    Calibration(tally).observe(verdicts(0.5, accepted=90, tried=100))
    Calibration(tally, is_greedy=False).observe(verdicts(0.5, accepted=10, tried=100))

    again = Tally.from_json(json.loads(json.dumps(tally.as_json())))

    for is_greedy in (True, False):
        before = Calibration(tally, is_greedy=is_greedy).accept(row(0.5, 0.3), at_depth(1))
        after = Calibration(again, is_greedy=is_greedy).accept(row(0.5, 0.3), at_depth(1))
        np.testing.assert_allclose(after, before, atol=1e-3)


def test_what_others_taught_is_soon_outweighed() -> None:
    theirs = Tally()
    for _ in range(40):
        Calibration(theirs).observe(verdicts(0.5, accepted=100, tried=100))
    ours = Tally.from_json(theirs.as_json())

    for _ in range(10):
        Calibration(ours).observe(verdicts(0.5, accepted=0, tried=100))

    assert Calibration(theirs).accept(row(0.5), at_depth(1))[0, 0] > 0.98
    assert Calibration(ours).accept(row(0.5), at_depth(1))[0, 0] < 0.25


def test_counts_of_other_cells_are_of_no_use() -> None:
    tally = Tally()
    Calibration(tally).observe(verdicts(0.5, accepted=0, tried=100))
    body = tally.as_json()
    body["layout"] = {**body["layout"], "rank_edges": [0]}

    assert Tally.from_json(body).as_json()["cells"] == []


@pytest.mark.parametrize("cell", [[-1, 5, 1], [10**9, 5, 1], [3, 5, 6], [3, 5, -1]])
def test_counts_that_cannot_be_are_refused(cell: list[int]) -> None:
    with pytest.raises(ValueError, match="cell"):
        Tally.from_json({**Tally().as_json(), "cells": [cell]})


def test_a_greedy_a_sampling_and_a_coupled_case_learn_apart() -> None:
    tally = Tally()
    greedy, sampling = Calibration(tally), Calibration(tally, is_greedy=False)
    untaught = Calibration().accept(row(0.5), at_depth(1))

    greedy.observe(verdicts(0.5, accepted=1000, tried=1000))
    sampling.observe(verdicts(0.5, accepted=0, tried=1000))

    fresh = Calibration(tally, is_greedy=False)
    assert Calibration(tally).accept(row(0.5), at_depth(1))[0, 0] > 0.95
    assert fresh.accept(row(0.5), at_depth(1))[0, 0] < 0.05
    coupled = fresh.accept(row(0.5), at_depth(1), ScoreKind.COUPLED)
    np.testing.assert_array_equal(coupled, untaught)


#        0
#      1   2
#     3 4   5
TREE = TokenTree.from_parents([9, 1, 2, 3, 4, 5], [-1, 0, 0, 1, 1, 2])
ALL = np.arange(1, 6, dtype=np.int32)


def learned(tried: np.ndarray, *committed: int) -> dict[int, bool]:
    seen = outcomes(TREE, tried, np.array(committed, dtype=np.int32))
    # Depth and rank name a node here, since only children of one accepted path are tested.
    keys = (seen.depth * 10 + seen.rank).tolist()
    return dict(zip(keys, seen.accepted.tolist(), strict=True))


def test_only_children_of_accepted_nodes_are_tested() -> None:
    assert learned(ALL, 1, 7) == {10: True, 11: False, 20: False, 21: False}
    assert learned(ALL, 7) == {10: False, 11: False}


def test_a_node_that_was_not_tried_teaches_nothing() -> None:
    assert learned(ALL[1:2], 1, 4, 7) == {11: False}


def test_where_the_text_was_cut_the_last_token_still_counts() -> None:
    # The verdict ends with node 1's token as its bonus: what follows it is unknown.
    assert learned(ALL, 1) == {10: True, 11: False}
