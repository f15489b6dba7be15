"""Predicts how long a verifier's step takes, from the steps it reported. Pure.

    step_ms = a + b * rows + b2 * max(0, rows - knee) + c * context + d * prefill

by recursive least squares with forgetting, coefficients never negative, covariance bounded. The
knee is not linear, so a few are fitted side by side, and the one that errs least is believed.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from specedge.protocol.reports import StepReport

KNEES_ROWS: Final = (32, 128, 512)
FORGETTING: Final = 0.99  # about the last hundred steps count
RIDGE: Final = 1e-3  # bounds the covariance: in directions never seen, coefficients stay small
NUM_FEATURES: Final = 5
ERROR_WEIGHT: Final = 0.05
SETTLED_STEPS: Final = 16  # after which outliers are told from news
SOLVE_EVERY: Final = 16  # steps, after that
OUTLIER: Final = 6.0  # times the usual error
LEAST_OUTLIER: Final = 0.25  # of the prediction
# Of a step. A report of more is wrong, and what is fitted to it would be no number any more.
LONGEST_MS: Final = 600_000.0
MOST_ROWS: Final = 1 << 20
MOST_CONTEXT: Final = 1 << 30

# Units in which coefficients are of the same order.
ROWS_UNIT: Final = 64.0
CONTEXT_UNIT: Final = 65_536.0
PREFILL_UNIT: Final = 512.0

_RIDGE: Final = RIDGE * np.eye(NUM_FEATURES)


class StepFit:
    """One model: coefficients in ms per unit, for features of ``features_of``."""

    __slots__ = ("coefficient", "error_ms", "knee_rows")

    def __init__(self, knee_rows: int) -> None:
        self.knee_rows = knee_rows
        self.coefficient = [0.0] * NUM_FEATURES
        self.error_ms = 0.0  # moving average of what predictions were off by

    def predict_ms(self, x: Sequence[float]) -> float:
        """Of a step with these features."""
        a, b, b2, c, d = self.coefficient
        return a + b * x[1] + b2 * x[2] + c * x[3] + d * x[4]

    def judge(self, x: Sequence[float], ms: float, *, is_settled: bool) -> float:
        """Count what the prediction was off by; how long the step is taken to have been: once
        ``is_settled``, a stall counts no more than an outlier may."""
        expected_ms = self.predict_ms(x)
        error_ms = ms - expected_ms
        bound_ms = math.inf
        if is_settled:
            bound_ms = max(OUTLIER * self.error_ms, LEAST_OUTLIER * expected_ms)
        self.error_ms += ERROR_WEIGHT * (abs(error_ms) - self.error_ms)
        return expected_ms + max(-bound_ms, min(bound_ms, error_ms))


class StepEstimator:
    """One verifier's step times. Written by whoever holds its reports.

    What the fits have seen is kept in information form, the sums of xxᵀ and x·ms, which stays
    positive however alike the steps are; of all fits in one array each, since a step is little work
    and calling numpy for each fit by itself costs more than the work.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self.error_ratio = 0.0  # moving average of |error| / ms
        self._fits = tuple(StepFit(knee) for knee in KNEES_ROWS)
        self._best = self._fits[-1]
        self._last_seq = -1
        # Per step since fits were solved for: features and milliseconds, each of every fit.
        self._unlearned: list[tuple[list[tuple[float, ...]], list[float]]] = []
        num_fits = len(KNEES_ROWS)
        self._spread = np.zeros((num_fits, NUM_FEATURES, NUM_FEATURES))
        self._moment = np.zeros((num_fits, NUM_FEATURES, 1))

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
        prefill, context = min(step.prefill, MOST_ROWS), min(step.context, MOST_CONTEXT)
        decoded, ms = max(0, min(step.rows, MOST_ROWS) - prefill), min(step.ms, LONGEST_MS)
        if self.num_steps and ms > 0:
            error_ms = abs(ms - self.predict_ms(decoded, context, prefill))
            self.error_ratio += ERROR_WEIGHT * (error_ms / ms - self.error_ratio)
        is_settled = self.num_steps >= SETTLED_STEPS
        xs = [features_of(decoded, context, prefill, fit.knee_rows) for fit in self._fits]
        believed_ms = [
            fit.judge(x, ms, is_settled=is_settled) for fit, x in zip(self._fits, xs, strict=True)
        ]
        self._unlearned.append((xs, believed_ms))
        # Solving is most of the work; once settled, coefficients change slowly.
        if not is_settled or self.num_steps % SOLVE_EVERY == 0:
            self._learn()
            self._solve()
        self.num_steps += 1
        self._best = min(self._fits, key=lambda fit: fit.error_ms)
        return True

    def predict_ms(self, rows: int, context: int = 0, prefill: int = 0) -> float:
        """Of a step with so many rows of rounds, over so many KV rows, beside so many tokens of
        prefill; 0 while nothing is known."""
        x = features_of(rows, context, prefill, self._best.knee_rows)
        return self._best.predict_ms(x)

    def _learn(self) -> None:
        """All steps since the last time, the older ones forgotten as if learned one by one."""
        xs, believed_ms = zip(*self._unlearned, strict=True)
        num_steps = len(self._unlearned)
        self._unlearned.clear()
        kept = FORGETTING ** np.arange(num_steps - 1, -1, -1)
        features = np.array(xs).transpose(1, 2, 0)  # (fits, features, steps)
        weighted = features * kept
        self._spread *= FORGETTING**num_steps
        self._spread += weighted @ features.transpose(0, 2, 1)
        self._moment *= FORGETTING**num_steps
        self._moment += weighted @ np.array(believed_ms).T[:, :, None]

    def _solve(self) -> None:
        matrices = self._spread + _RIDGE
        solutions = np.linalg.solve(matrices, self._moment)[:, :, 0].tolist()
        for index, (fit, found) in enumerate(zip(self._fits, solutions, strict=True)):
            fit.coefficient = _non_negative(matrices[index], self._moment[index, :, 0], found)


def features_of(rows: int, context: int, prefill: int, knee_rows: int) -> tuple[float, ...]:
    """(1, rows, rows beyond the knee, context, prefill), each in its unit."""
    return (
        1.0,
        rows / ROWS_UNIT,
        (rows - knee_rows) / ROWS_UNIT if rows > knee_rows else 0.0,
        context / CONTEXT_UNIT,
        prefill / PREFILL_UNIT,
    )


def _non_negative(
    matrix: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    moment: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    found: list[float],
) -> list[float]:
    """Least squares with every coefficient at least 0: ``found`` if that is so, else those below
    are left out, and the others are fitted again. ``matrix`` (features, features), ``moment``
    (features,)."""
    if min(found) >= 0.0:
        return found
    kept = list(range(NUM_FEATURES))
    while kept and min(found) < 0.0:
        kept = [index for index, value in zip(kept, found, strict=True) if value > 0.0]
        found = np.linalg.solve(matrix[np.ix_(kept, kept)], moment[kept]).tolist()
    coefficient = [0.0] * NUM_FEATURES
    for index, value in zip(kept, found, strict=True):
        coefficient[index] = value
    return coefficient
