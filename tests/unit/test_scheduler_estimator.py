"""What the scheduler learns of a verifier's step times."""

import numpy as np

from specedge.profiles import DeviceProfile
from specedge.protocol.reports import StepReport
from specedge_scheduler.estimator import StepEstimator


def step(seq: int, rows: int, ms: float, *, context: int = 0, prefill: int = 0) -> StepReport:
    return StepReport(seq=seq, rows=rows, prefill=prefill, context=context, sessions=1, ms=ms)


DEVICE = DeviceProfile(
    "test",
    "made up",
    fixed_ms=20.0,
    row_ms=0.1,
    context_token_ms=1e-4,
    prefill_token_ms=0.05,
)


def seen(num: int, *, noise_ms: float = 0.0, factor: float = 1.0) -> StepEstimator:
    estimator, random = StepEstimator(), np.random.default_rng(3)
    for seq in range(num):
        rows, context = int(random.integers(1, 100)), int(random.integers(0, 50_000))
        prefill = int(random.choice([0, 0, 256]))
        ms = DEVICE.step_ms(rows, context, prefill) + float(random.normal(0, noise_ms))
        report = step(seq, rows + prefill, factor * ms, context=context, prefill=prefill)
        estimator.observe(report)
    return estimator


def test_nothing_known_predicts_nothing() -> None:
    assert StepEstimator().predict_ms(10) == 0.0


def test_one_step_is_enough_to_predict_its_like() -> None:
    estimator = StepEstimator()
    estimator.observe(step(0, rows=8, ms=50.0))

    assert abs(estimator.predict_ms(8) - 50.0) < 0.5
    assert estimator.predict_ms(16) >= 50.0


def test_rows_context_and_prefill_are_told_apart() -> None:
    estimator = seen(200, noise_ms=0.2)

    for rows, context, prefill in ((1, 0, 0), (64, 30_000, 0), (32, 1000, 512)):
        told_ms = DEVICE.step_ms(rows, context, prefill)
        assert abs(estimator.predict_ms(rows, context, prefill) - told_ms) < 0.02 * told_ms
    assert estimator.error_ratio < 0.02


def test_beyond_a_knee_rows_cost_more() -> None:
    estimator = StepEstimator()
    random = np.random.default_rng(1)
    for seq in range(400):
        rows = int(random.integers(1, 400))
        estimator.observe(step(seq, rows, 20.0 + 0.01 * rows + 0.2 * max(0, rows - 128)))

    assert estimator.knee_rows == 128
    assert abs(estimator.predict_ms(300) - 57.4) < 1.5
    assert abs(estimator.predict_ms(60) - 20.6) < 1.5


def test_a_device_that_becomes_slower_is_followed() -> None:
    estimator = seen(300)
    before_ms = estimator.predict_ms(32, 1000)

    for seq in range(300, 700):
        estimator.observe(step(seq, 32, 2 * DEVICE.step_ms(32, 1000), context=1000))

    assert abs(estimator.predict_ms(32, 1000) - 2 * before_ms) < 0.05 * before_ms


def test_one_stall_changes_little() -> None:
    estimator = seen(300, noise_ms=0.2)
    before_ms = estimator.predict_ms(32, 1000)

    estimator.observe(step(300, 32, 5000.0, context=1000))

    assert abs(estimator.predict_ms(32, 1000) - before_ms) < 0.1 * before_ms


def test_whatever_a_report_says_predictions_are_numbers() -> None:
    """One that is none would never be forgotten, and nothing would be sent in time any more."""
    estimator, most = StepEstimator(), 2**31 - 1
    for seq in range(8):
        estimator.observe(step(seq, most, 1e9, context=most, prefill=seq % 2 * most))
    for seq in range(8, 2000):
        estimator.observe(step(seq, 8 + seq % 3, 50.0))

    assert 45.0 < estimator.predict_ms(8) < 55.0
    assert 0.0 <= estimator.error_ms < 5.0


def test_coefficients_are_never_negative() -> None:
    estimator = StepEstimator()
    for seq in range(100):  # larger steps take less: not to be believed beyond what was seen
        estimator.observe(step(seq, rows=1 + seq % 50, ms=60.0 - seq % 50))

    assert estimator.predict_ms(1000) >= estimator.predict_ms(1) > 0


def test_many_steps_that_are_all_alike_leave_it_able_to_learn() -> None:
    estimator = StepEstimator()
    for seq in range(3000):
        estimator.observe(step(seq, rows=528, ms=143.0, context=3000))
    for seq in range(3000, 3200):
        estimator.observe(step(seq, rows=264, ms=98.0, context=1500))

    assert abs(estimator.predict_ms(528, 3000) - 143.0) < 3.0
    assert abs(estimator.predict_ms(264, 1500) - 98.0) < 2.0


def test_a_step_reported_again_counts_once() -> None:
    estimator = StepEstimator()
    estimator.observe(step(0, rows=4, ms=10.0))
    estimator.observe(step(1, rows=4, ms=20.0))
    before = estimator.predict_ms(4)

    assert not estimator.observe(step(1, rows=4, ms=20.0))
    assert not estimator.observe(step(0, rows=4, ms=10.0))

    assert estimator.predict_ms(4) == before
