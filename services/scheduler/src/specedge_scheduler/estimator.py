"""Predicts how long a verifier's step takes, from the steps it reported. Pure.

A moving average per power of two of rows: enough to compare verifiers and to tell an edge how long
to wait. It knows nothing of context length or prefill.
"""

from specedge.protocol.messages import StepReport

WEIGHT = 0.2  # of a new step; about the last ten count


class StepEstimator:
    """One verifier's step times. Written by whoever holds its reports."""

    def __init__(self) -> None:
        self._ms_by_size: dict[int, float] = {}
        self._last_seq = -1

    def observe(self, step: StepReport) -> None:
        """Learn from a step; one already seen (reports repeat steps) changes nothing."""
        if step.seq <= self._last_seq:
            return
        self._last_seq = step.seq
        size = step.rows.bit_length()
        known_ms = self._ms_by_size.get(size)
        self._ms_by_size[size] = (
            step.ms if known_ms is None else known_ms + WEIGHT * (step.ms - known_ms)
        )

    def predict_ms(self, rows: int) -> float:
        """Of a step of so many rows: the nearest known size's average; 0 while nothing is known."""
        if not self._ms_by_size:
            return 0.0
        wanted = rows.bit_length()
        nearest = min(self._ms_by_size, key=lambda size: (abs(size - wanted), size))
        return self._ms_by_size[nearest]
