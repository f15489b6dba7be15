"""Counts of how often drafted nodes were accepted, in cells of (case, score, rank, depth).

Owns which cells there are, and how counts are written down. What is estimated from them is
``calibration``'s.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from specedge.tree.token_tree import BoolArray, FloatArray, IntArray

# Upper edges of the bins, the last bin open: nats below certainty, rank from 0, depth from 1.
_SCORE_EDGES: Final = np.array([0.02, 0.1, 0.3, 0.7, 1.2, 1.8, 2.5, 3.5, 5.0, 7.0])
_RANK_EDGES: Final = np.array([0, 1, 2, 4])
_DEPTH_EDGES: Final = np.array([1, 2, 3, 5])
_CASES: Final = ("greedy", "sampled", "coupled")
_RANKS: Final = len(_RANK_EDGES) + 1
_DEPTHS: Final = len(_DEPTH_EDGES) + 1
_CASE_CELLS: Final = (len(_SCORE_EDGES) + 1) * _RANKS * _DEPTHS

SESSION_CELLS: Final = (len(_SCORE_EDGES) + 1) * _RANKS
MODEL_CELLS: Final = _CASE_CELLS * len(_CASES)

# A cell forgets half of what it saw when it has seen so much: text and models change.
FORGET_AT: Final = 4096.0
# Of what others saw on other text, as a cell starts with it: enough to be right from the first
# round, and soon outweighed.
MAX_PRIOR_TRIALS: Final = 256.0

# What the numbers of cells mean. Counts of another release's cells are of no use to this one.
_LAYOUT: Final[dict[str, Any]] = {
    "score_edges": _SCORE_EDGES.tolist(),
    "rank_edges": _RANK_EDGES.tolist(),
    "depth_edges": _DEPTH_EDGES.tolist(),
    "cases": list(_CASES),
}

Cells = npt.NDArray[np.intp]
Estimates = npt.NDArray[np.float64]


class Tally:
    """Counts of trials and acceptances by cell: of a model's cells, or of a session's, which tell
    neither cases nor depths apart. Mutable; one owner thread."""

    def __init__(self, num_cells: int = MODEL_CELLS) -> None:
        self._tried = np.zeros(num_cells)
        self._accepted = np.zeros(num_cells)

    def add(self, cells: Cells, accepted: BoolArray) -> None:
        """Count one trial per element."""
        np.add.at(self._tried, cells, 1.0)
        np.add.at(self._accepted, cells, accepted.astype(np.float64))
        full = self._tried > FORGET_AT
        self._tried[full] *= 0.5
        self._accepted[full] *= 0.5

    def blend(self, cells: Cells, prior: Estimates, strength: float) -> Estimates:
        """Estimates for ``cells``, with ``prior`` counting as ``strength`` trials."""
        return (self._accepted[cells] + strength * prior) / (self._tried[cells] + strength)

    def as_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes. Only a model's tally can be written down."""
        seen = np.flatnonzero(self._tried)
        counts = zip(seen.tolist(), self._tried[seen], self._accepted[seen], strict=True)
        cells = [[cell, round(float(n), 1), round(float(a), 1)] for cell, n, a in counts]
        return {"layout": _LAYOUT, "cells": cells}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Tally":
        """A model's tally that starts from what ``as_json`` gave, no cell with more than
        ``MAX_PRIOR_TRIALS``; empty if that was of other cells. Raises ValueError for nonsense."""
        tally = cls()
        if body.get("layout") != _LAYOUT:
            return tally
        for cell, tried, accepted in body["cells"]:
            if not (0 <= cell < MODEL_CELLS and 0 <= accepted <= tried):
                raise ValueError(f"cell {cell}: {accepted} of {tried}")
            share = min(1.0, MAX_PRIOR_TRIALS / max(tried, 1.0))
            tally._tried[cell], tally._accepted[cell] = share * tried, share * accepted
        return tally


def cells_of(
    score: FloatArray, rank: npt.ArrayLike, depth: IntArray, case: str
) -> tuple[Cells, Cells]:
    """Cells of a session's counts and of a model's. ``case`` is one of the layout's."""
    score_bin = np.searchsorted(_SCORE_EDGES, -score)
    coarse = score_bin * _RANKS + np.searchsorted(_RANK_EDGES, rank)
    fine = coarse * _DEPTHS + np.searchsorted(_DEPTH_EDGES, depth)
    return coarse, fine + _CASES.index(case) * _CASE_CELLS
