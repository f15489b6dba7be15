"""A step of a fixed shape in tensors that stay where they are: what a captured pass reads.

Owns how any spans, up to that shape, are laid into the same tensors. Has what ``StepTable`` has as
far as a model's forward pass looks at it, so both go through the same modules and attention.

Rows are the spans' rows, then padding. Keys are the spans' keys, one span's after the other's, told
by their arena rows and read from there by every layer; a bias leaves each row those of its own
span:

    rows of a step   | span 0 | span 1 | padding: token 0, sees the first key, is written nowhere
    keys of a step   | span 0's [0, start + n) | span 1's | padding: the first key, seen by nobody
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from specedge.engine.step_table import Span, View, bias_of, rows_with_logits, visible_keys

# Above these a pass has its time from arithmetic, not from its operations.
MOST_ROWS: Final = 128
MOST_KEYS: Final = 4096
LEAST_KEYS: Final = 256


@dataclass(frozen=True, slots=True)
class PassShape:
    """Rows and keys of a pass, both powers of two."""

    rows: int
    keys: int

    @classmethod
    def holding(cls, spans: Sequence[Span]) -> "PassShape | None":
        """The smallest shape with room for ``spans``; None where there is none."""
        rows = sum(span.num_rows for span in spans)
        keys = sum(span.num_keys for span in spans)
        if rows > MOST_ROWS or keys > MOST_KEYS:
            return None
        return cls(_power_of_two(rows), max(LEAST_KEYS, _power_of_two(keys)))


class FixedStep:
    """Tensors of ``shape``, filled anew by each ``hold``. One owner thread.

    spare_row   arena row that belongs to no slot: where padding is written
    token_ids, position_ids  (1, rows) int64
    arena_rows  (rows,) int64, where each row's K and V go
    logit_rows  (rows,) int64: all rows have logits
    wanted_rows (L,) int64: those whose logits were asked for, session by session
    """

    def __init__(
        self, shape: PassShape, *, spare_row: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        self._spare_row = spare_row
        self._dtype = dtype
        self._device = device
        self._spans: Sequence[Span] = ()
        # One copy brings all numbers of a step to the device.
        self._numbers = torch.zeros(4 * shape.rows + shape.keys, dtype=torch.long, device=device)
        parts = self._numbers.split([*[shape.rows] * 4, shape.keys])
        self.token_ids, self.position_ids = parts[0][None], parts[1][None]
        self.arena_rows, self._all_wanted, self._key_rows = parts[2:]
        self.wanted_rows = self._all_wanted[:0]
        self.logit_rows = torch.arange(shape.rows, device=device)
        self._views: dict[int | None, View] = {}

    def hold(self, spans: Sequence[Span]) -> None:
        """Take over the spans of the next pass, which ``shape`` has room for."""
        self._spans = spans
        self._numbers.copy_(torch.from_numpy(self._numbers_of(spans)))
        self.wanted_rows = self._all_wanted[: sum(span.num_logits for span in spans)]
        for window, view in self._views.items():
            view.hold(self._bias(window))

    def views(self, window: int | None) -> list[View]:
        """What all rows see under ``window``, in one view; its tensors stay for good."""
        found = self._views.get(window)
        if found is None:
            bias = self._bias(window)
            rows = slice(0, self.shape.rows)
            found = View(rows, 0, self.shape.keys, bias, gathered=self._key_rows)
            self._views[window] = found
        return [found]

    def _numbers_of(self, spans: Sequence[Span]) -> np.typing.NDArray[np.int64]:
        """Tokens, positions, arena rows, wanted rows; keys."""
        rows = self.shape.rows
        numbers = np.zeros(len(self._numbers), dtype=np.int64)
        tokens, positions, arena_rows, wanted = numbers[: 4 * rows].reshape(4, rows)
        _fill(tokens, [span.tokens for span in spans])
        _fill(positions, [span.positions for span in spans])
        arena_rows[:] = self._spare_row
        _fill(arena_rows, [span.offset + span.start + np.arange(span.num_rows) for span in spans])
        _fill(wanted, rows_with_logits(spans))
        keys = numbers[4 * rows :]
        # A key that nobody sees has to be a number all the same: the spare row may hold none.
        keys[:] = spans[0].offset
        _fill(keys, [span.offset + np.arange(span.num_keys) for span in spans])
        return numbers

    def _bias(self, window: int | None) -> Tensor:
        """(rows, keys), 0 where a row sees a key and -inf elsewhere."""
        visible = np.zeros((self.shape.rows, self.shape.keys), dtype=np.bool_)
        row = key = 0
        for span in self._spans:
            block = visible[row : row + span.num_rows, key : key + span.num_keys]
            block[:] = visible_keys(span, 0, window)
            row += span.num_rows
            key += span.num_keys
        visible[row:, 0] = True  # a row that sees nothing would be no number
        return bias_of(visible, self._dtype, self._device)


def _fill(numbers: np.typing.NDArray[np.int64], parts: Sequence[np.typing.NDArray[Any]]) -> None:
    """Lay ``parts`` side by side into the first of ``numbers``."""
    values = np.concatenate(parts)
    numbers[: len(values)] = values


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
