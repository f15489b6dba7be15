"""Predicts how long a verifier's step takes, from the steps it reported. Pure.

    step_ms = a + b * rows + b2 * max(0, rows - knee) + c * context + d * prefill

by recursive least squares with forgetting, coefficients never negative, covariance bounded. The
knee is not linear, so a few are fitted side by side, and the one that errs least is believed.
"""

import math
from collections.abc import Sequence
from typing import Final

from specedge.protocol.messages import StepReport

KNEES_ROWS: Final = (32, 128, 512)
FORGETTING: Final = 0.995  # about the last two hundred steps count
FIRST_VARIANCE: Final = 1e4  # of coefficients of which nothing is known, in ms² per unit below
MAX_TRACE: Final = 1e5  # beyond it nothing is forgotten: nothing was learned of late
ERROR_WEIGHT: Final = 0.05
SETTLED_STEPS: Final = 16  # after which outliers are told from news
OUTLIER: Final = 6.0  # times the usual error
LEAST_OUTLIER: Final = 0.25  # of the prediction

# Units in which coefficients are of the same order.
ROWS_UNIT: Final = 64.0
CONTEXT_UNIT: Final = 65_536.0
PREFILL_UNIT: Final = 512.0


class StepFit:
    """One model: coefficients in ms per unit, for features of ``features_of``."""

    __slots__ = ("_covariance", "coefficient", "error_ms", "knee_rows")

    def __init__(self, knee_rows: int) -> None:
        self.knee_rows = knee_rows
        self.coefficient = [0.0] * 5
        self.error_ms = 0.0  # moving average of what predictions were off by
        self._covariance = [
            [FIRST_VARIANCE if row == column else 0.0 for column in range(5)] for row in range(5)
        ]

    def predict_ms(self, x: Sequence[float]) -> float:
        """Of a step with these features."""
        a, b, b2, c, d = self.coefficient
        return a + b * x[1] + b2 * x[2] + c * x[3] + d * x[4]

    def learn(self, x: Sequence[float], ms: float, bound_ms: float) -> None:
        """Take a step in; what it is off by counts up to ``bound_ms``."""
        error_ms = ms - self.predict_ms(x)
        self.error_ms += ERROR_WEIGHT * (abs(error_ms) - self.error_ms)
        error_ms = max(-bound_ms, min(bound_ms, error_ms))
        covariance = self._covariance
        px = [sum(p * f for p, f in zip(row, x, strict=True)) for row in covariance]
        spread = FORGETTING + sum(p * f for p, f in zip(px, x, strict=True))
        self.coefficient = [
            max(0.0, known + p / spread * error_ms)
            for known, p in zip(self.coefficient, px, strict=True)
        ]
        trace = sum(covariance[i][i] - px[i] * px[i] / spread for i in range(5))
        scale = 1.0 / FORGETTING if trace < MAX_TRACE else 1.0
        for row, p_row in zip(covariance, px, strict=True):
            gain = p_row / spread
            for column, p in enumerate(px):
                row[column] = (row[column] - gain * p) * scale


def features_of(rows: int, context: int, prefill: int, knee_rows: int) -> tuple[float, ...]:
    """(1, rows, rows beyond the knee, context, prefill), each in its unit."""
    return (
        1.0,
        rows / ROWS_UNIT,
        max(0, rows - knee_rows) / ROWS_UNIT,
        context / CONTEXT_UNIT,
        prefill / PREFILL_UNIT,
    )


class StepEstimator:
    """One verifier's step times. Written by whoever holds its reports."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.error_ratio = 0.0  # moving average of |error| / ms
        self._fits = tuple(StepFit(knee) for knee in KNEES_ROWS)
        self._best = self._fits[-1]
        self._last_seq = -1

    @property
    def error_ms(self) -> float:
        """What its predictions are usually off by."""
        return self._best.error_ms

    @property
    def knee_rows(self) -> int | None:
        """Where a row begins to cost more than twice as much as before; None: nowhere yet seen."""
        _, b, b2, _, _ = self._best.coefficient
        is_steep = self.num_steps >= SETTLED_STEPS and b2 > max(b, 0.05)
        return self._best.knee_rows if is_steep else None

    def observe(self, step: StepReport) -> bool:
        """Learn from a step; one already seen (reports repeat steps) changes nothing. Whether it
        was new."""
        if step.seq <= self._last_seq:
            return False
        self._last_seq = step.seq
        decoded = max(0, step.rows - step.prefill)
        if self.num_steps and step.ms > 0:
            error_ms = abs(step.ms - self.predict_ms(decoded, step.context, step.prefill))
            self.error_ratio += ERROR_WEIGHT * (error_ms / step.ms - self.error_ratio)
        for fit in self._fits:
            x = features_of(decoded, step.context, step.prefill, fit.knee_rows)
            fit.learn(x, step.ms, self._bound_ms(fit, x))
        self.num_steps += 1
        self._best = min(self._fits, key=lambda fit: fit.error_ms)
        return True

    def predict_ms(self, rows: int, context: int = 0, prefill: int = 0) -> float:
        """Of a step with so many rows of rounds, over so many KV rows, beside so many tokens of
        prefill; 0 while nothing is known."""
        x = features_of(rows, context, prefill, self._best.knee_rows)
        return self._best.predict_ms(x)

    def _bound_ms(self, fit: StepFit, x: Sequence[float]) -> float:
        if self.num_steps < SETTLED_STEPS:
            return math.inf
        return max(OUTLIER * fit.error_ms, LEAST_OUTLIER * fit.predict_ms(x))
