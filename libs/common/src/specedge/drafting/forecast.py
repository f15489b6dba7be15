"""What drafting would yield, before any tree is grown: trees of typical nodes, and the best ratio
of their tokens to their time.

Used where nothing was measured yet or what was measured is old; a session that drafts soon knows
better from its own rounds. Pure.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from specedge.drafting.cost_curve import Figures

_ROWS_OF_A_PASS: Final = 4  # typical, after the first
_ITERATIONS: Final = 6  # of Dinkelbach's, which doubles its digits with each


@dataclass(frozen=True, slots=True, eq=False)
class RoundCosts:
    """Milliseconds. ``fixed_ms``: the round trip without the step. ``verify_ms`` (budget + 1,)
    float64: the step with 0, 1, … nodes."""

    fixed_ms: float
    pass_ms: float
    row_ms: float
    verify_ms: Figures


@dataclass(frozen=True, slots=True)
class Forecast:
    """The best round, on average: its expected tokens, and its milliseconds, the network's too."""

    tokens: float
    ms: float


def forecast(
    children: Figures, costs: RoundCosts, *, trust: float, depth: int, beams: int
) -> Forecast:
    """The best that rounds of at most ``depth`` levels can do. ``children`` (depths, samples,
    branch) as in ``GrowthRule``."""
    budget = len(costs.verify_ms) - 1
    gained = trust * np.cumsum(_grown(children, depth, beams, budget), axis=2)
    gained = np.concatenate([np.zeros((*gained.shape[:2], 1)), gained], axis=2)
    levels = np.arange(depth + 1)
    draft_ms = costs.pass_ms * levels + costs.row_ms * (
        np.minimum(levels, 1) + _ROWS_OF_A_PASS * np.maximum(levels - 1, 0)
    )
    rate, best = 0.0, 0
    for _ in range(_ITERATIONS):
        sent = (gained - rate * costs.verify_ms).argmax(axis=2)  # (depth + 1, samples)
        tokens = 1.0 + np.take_along_axis(gained, sent[:, :, None], axis=2)[:, :, 0].mean(axis=1)
        ms = costs.fixed_ms + draft_ms + costs.verify_ms[sent].mean(axis=1)
        best = int(np.argmax(tokens - rate * ms))
        rate = float(tokens[best] / max(ms[best], 1e-6))
    return Forecast(float(tokens[best]), float(ms[best]))


def _grown(children: Figures, depth: int, beams: int, budget: int) -> Figures:
    """The values, falling, of the best nodes of trees of 0 … ``depth`` levels, one tree a sample:
    (depth + 1, samples, budget)."""
    depths, samples, _ = children.shape
    values = np.zeros((depth + 1, samples, budget))
    frontier = np.ones((samples, 1))
    for level in range(depth):
        # Each node of a tree takes after another sample, as if they were independent.
        other = level * samples // 3 + 5 * np.arange(frontier.shape[1])
        turn = (np.arange(samples)[:, None] + other) % samples
        born = children[min(level, depths - 1), turn] * frontier[:, :, None]
        born = np.sort(born.reshape(samples, -1), axis=1)[:, ::-1]
        both = np.concatenate([values[level], born], axis=1)
        values[level + 1] = np.sort(both, axis=1)[:, : -budget - 1 : -1]
        frontier = born[:, :beams]
    return values
