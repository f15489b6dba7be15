"""Whatever a drafter says, its nodes' values are probabilities; in the long run the right ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specedge.params import SamplingParams
from specedge.sampling.noise import gumbel
from specedge.tree.calibration import Calibration, Outcomes, ScoreKind, Tally
from specedge.tree.token_tree import FloatArray

CHILDREN = 4
VOCAB_SIZE = 40
KINDS = st.sampled_from(list(ScoreKind))
SEEDS = st.integers(0, 2**32 - 1)
ROWS = st.lists(
    st.lists(st.floats(-30, 5, width=32), min_size=CHILDREN, max_size=CHILDREN),
    min_size=1,
    max_size=4,
)


def falling(scores: list[list[float]]) -> FloatArray:
    return -np.sort(-np.array(scores, dtype=np.float32), axis=1)


def told(scores: FloatArray, accepted_rank: int, depth: int) -> Outcomes:
    """All children of every row were tried below an accepted parent; the same rank was right."""
    rank = np.tile(np.arange(CHILDREN, dtype=np.int32), len(scores))
    depths = np.full(scores.size, depth, dtype=np.int32)
    return Outcomes(scores.ravel(), rank, depths, rank == accepted_rank)


def teach(calibration: Calibration, seed: int, kind: ScoreKind) -> None:
    """Up to a dozen verdicts of any sense or none."""
    rng = np.random.default_rng(seed)
    for _ in range(int(rng.integers(0, 12))):
        scores = falling(rng.normal(-2, 4, (int(rng.integers(1, 6)), CHILDREN)).tolist())
        accepted, depth = rng.integers(0, CHILDREN + 1), rng.integers(1, 9)
        calibration.observe(told(scores, int(accepted), int(depth)), kind)


@given(SEEDS, ROWS, st.integers(1, 9), KINDS, st.booleans())
@settings(max_examples=50)
def test_siblings_are_probabilities_of_which_at_most_one_comes_true(
    seed: int, scores: list[list[float]], depth: int, kind: ScoreKind, is_greedy: bool
) -> None:
    calibration = Calibration(is_greedy=is_greedy)
    teach(calibration, seed, kind)

    depths = np.full(len(scores), depth, dtype=np.int32)
    estimate = calibration.accept(falling(scores), depths, kind)

    assert ((estimate >= 0) & (estimate <= 1)).all()
    assert (estimate.sum(axis=1) <= 1 + 1e-5).all()


@given(SEEDS, KINDS)
@settings(max_examples=40)
def test_a_tally_written_down_is_the_same_tally(seed: int, kind: ScoreKind) -> None:
    tally = Tally()
    teach(Calibration(tally), seed, kind)

    body = tally.as_json()

    assert Tally.from_json(body).as_json() == body


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


def coupled_round(rng: np.random.Generator, error: float, position: int) -> tuple[FloatArray, int]:
    """A target, a drafter that errs by so much, and one draw of noise: the drafter's scores
    (1, CHILDREN), and at which rank it has what the target chooses (CHILDREN: not at all)."""
    target = log_softmax(rng.normal(0, 2.0, VOCAB_SIZE))
    drafter = log_softmax(target + rng.normal(0, error, VOCAB_SIZE))
    noise = gumbel(SamplingParams(seed=9).seed, position, VOCAB_SIZE)
    total = log_softmax(drafter + noise)
    best = np.argsort(-total)[:CHILDREN]
    found = np.flatnonzero(best == (target + noise).argmax())
    rank = int(found[0]) if len(found) else CHILDREN
    return total[best].astype(np.float32)[None], rank


@pytest.mark.parametrize("error", [0.5, 1.5])
def test_coupled_scores_come_to_mean_how_often_the_target_agrees(error: float) -> None:
    rng = np.random.default_rng(int(10 * error))
    tally, depth = Tally(), np.ones(1, dtype=np.int32)
    for position in range(2500):
        scores, rank = coupled_round(rng, error, position)
        Calibration(tally, is_greedy=False).observe(told(scores, rank, 1), ScoreKind.COUPLED)

    fresh = [coupled_round(rng, error, 10**6 + position) for position in range(2000)]
    calibration = Calibration(tally, is_greedy=False)
    estimate = np.concatenate([calibration.accept(s, depth, ScoreKind.COUPLED) for s, _ in fresh])
    came_true = np.array([rank for _, rank in fresh])[:, None] == np.arange(CHILDREN)

    np.testing.assert_allclose(estimate.mean(axis=0), came_true.mean(axis=0), atol=0.03)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (estimate >= low) & (estimate < high)
        assert inside.sum() > 50
        assert estimate[inside].mean() == pytest.approx(came_true[inside].mean(), abs=0.05)
