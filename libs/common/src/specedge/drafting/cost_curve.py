"""What a forward pass costs by its number of rows, learned from passes: rising, in pieces.

    ms(rows) = a + Σ sⱼ · (how much of [knotⱼ, knotⱼ₊₁] lies below rows),   a, s ≥ 0

Devices differ in shape: flat up to a width and steep after it, or one price for a single row and
another for the first few. The slopes of the pieces find it. Least squares over what was seen, the
past fading; neighbouring slopes are alike unless the passes say otherwise; solved by coordinate
descent, which keeps every term at zero or above. Pure.
"""

from collections.abc import Sequence
from operator import mul
from typing import Final

import numpy as np
import numpy.typing as npt

Figures = npt.NDArray[np.float64]

# The first piece, from one row to two, is like no other: one row is another kind of product.
KNOTS: Final = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0)
STRAIGHT: Final = (1.0,)
MEMORY: Final = 100.0  # observations that count; steps grow with context, so the old ones mislead
# Before rows were varied: a row costs so much of the pass. Worth a weak observation.
PRIOR_SLOPE: Final = 1 / 256
_PRIOR_WEIGHT: Final = 0.5
_STEP_WEIGHT: Final = 0.01  # the same, for the piece from one row to two, which is so short
_ALIKE_WEIGHT: Final = 0.05  # of neighbouring slopes
_ROWS_UNIT: Final = 8.0  # conditions the squares: slopes are per so many rows
_SWEEPS: Final = 6  # each starts from the last solution, so few are enough
_OUTLIER: Final = 3.0  # times what was expected: something else held the machine
_FIRST_OUTLIER: Final = 4.0  # the same, while little was seen
_LEAST_OUTLIER_MS: Final = 1.0  # more than nothing, if that is what was expected
_SETTLED: Final = 8.0  # observations after which outliers are told from news


class CostCurve:
    """Milliseconds by rows. ``at`` is zero everywhere until something was observed."""

    def __init__(self, knots: Sequence[float] = KNOTS) -> None:
        self._from = np.array(knots)
        self._width = np.append(np.diff(self._from), np.inf)
        num_terms = len(self._from) + 1
        self._gram = np.zeros((num_terms, num_terms))
        self._moments = np.zeros(num_terms)
        self._terms = np.zeros(num_terms)
        self._alike = _alikeness(len(self._from))
        self._mean_ms = 0.0
        self.weight = 0.0

    def observe(self, num_rows: float, ms: float) -> None:
        """A pass over so many rows (at least one) took so long."""
        if self.weight > 0.0:
            outlier = _OUTLIER if self.weight >= _SETTLED else _FIRST_OUTLIER
            expected_ms = float(self.at(np.array([num_rows]))[0])
            ms = min(ms, max(outlier * expected_ms, _LEAST_OUTLIER_MS))
        fade = 1.0 - 1.0 / MEMORY
        self.weight = self.weight * fade + 1.0
        self._mean_ms += (ms - self._mean_ms) / self.weight
        features = self._features(np.array([num_rows]))[0]
        self._gram = self._gram * fade + np.outer(features, features)
        self._moments = self._moments * fade + features * ms
        self._solve()

    def at(self, num_rows: Figures) -> Figures:
        """Milliseconds of passes over (n,) float64 rows: (n,) float64."""
        cost: Figures = self._features(num_rows) @ self._terms
        return cost

    def _features(self, num_rows: Figures) -> Figures:
        within = np.clip(num_rows[:, None] - self._from, 0.0, self._width) / _ROWS_UNIT
        return np.concatenate([np.ones((len(num_rows), 1)), within], axis=1)

    def _solve(self) -> None:
        gram, moments = self._gram + self._alike, self._moments.copy()
        priors = {1: _PRIOR_WEIGHT} if len(self._from) == 1 else {1: _STEP_WEIGHT, 2: _PRIOR_WEIGHT}
        for slope, weight in priors.items():
            gram[slope, slope] += weight
            moments[slope] += weight * PRIOR_SLOPE * _ROWS_UNIT * self._mean_ms
        # Plain floats: numpy's overhead per call would be most of the time for so few terms.
        rows, wanted, terms = gram.tolist(), moments.tolist(), self._terms.tolist()
        for _ in range(_SWEEPS):
            for term, row in enumerate(rows):
                others = sum(map(mul, row, terms)) - row[term] * terms[term]
                terms[term] = max(0.0, (wanted[term] - others) / row[term])
        self._terms = np.array(terms)


def _alikeness(num_slopes: int) -> Figures:
    """The part of the squares that holds neighbouring slopes together, the first one left out."""
    penalty = np.zeros((num_slopes + 1, num_slopes + 1))
    for slope in range(2, num_slopes):
        penalty[slope : slope + 2, slope : slope + 2] += _ALIKE_WEIGHT * np.array(
            [[1.0, -1.0], [-1.0, 1.0]]
        )
    return penalty
