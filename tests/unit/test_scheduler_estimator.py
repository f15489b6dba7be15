"""What the scheduler learns of a verifier's step times."""

from specedge.protocol.messages import StepReport
from specedge_scheduler.estimator import StepEstimator


def step(seq: int, rows: int, ms: float) -> StepReport:
    return StepReport(seq=seq, rows=rows, prefill=0, context=0, sessions=1, ms=ms)


def test_nothing_known_predicts_nothing() -> None:
    assert StepEstimator().predict_ms(10) == 0.0


def test_the_prediction_follows_the_steps_of_that_size() -> None:
    estimator = StepEstimator()
    for seq in range(100):
        estimator.observe(step(seq, rows=8 if seq % 2 else 64, ms=10.0 if seq % 2 else 40.0))

    assert abs(estimator.predict_ms(9) - 10.0) < 0.1
    assert abs(estimator.predict_ms(100) - 40.0) < 0.1


def test_an_unknown_size_takes_the_nearest_known_one() -> None:
    estimator = StepEstimator()
    estimator.observe(step(0, rows=4, ms=10.0))
    estimator.observe(step(1, rows=256, ms=50.0))

    assert estimator.predict_ms(1) == 10.0
    assert estimator.predict_ms(1000) == 50.0


def test_a_step_reported_again_counts_once() -> None:
    estimator = StepEstimator()
    estimator.observe(step(0, rows=4, ms=10.0))
    estimator.observe(step(1, rows=4, ms=20.0))
    before = estimator.predict_ms(4)

    estimator.observe(step(1, rows=4, ms=20.0))
    estimator.observe(step(0, rows=4, ms=10.0))

    assert estimator.predict_ms(4) == before
