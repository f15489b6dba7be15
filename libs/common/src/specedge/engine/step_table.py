"""One forward pass over many sessions, as tensors: which row belongs to whom and may see what.

Built once per step from plain values, then read by every layer. Knows nothing of models, sampling
or leases; it is told where each session's rows lie in the arena.

The step's row axis, N rows, session after session; within a session the chain, then the drafted
nodes:

    | session 0: c0 chain rows, m0 node rows | session 1: ... |

A session's key axis is its slot's rows [0, s + c + m): s rows from before, then this step's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from specedge.tree.token_tree import BoolArray, IntArray

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """One session's rows of a step.

    tokens      (c + m,) int32  chain, then nodes
    positions   (c + m,) int32  position of each row in the session's sequence
    num_chain   c: rows that see everything before them
    among_nodes (m, m) bool     ancestor-or-self among the node rows; every node sees the chain
    start       s: rows valid before the step
    offset      arena row of the session's row 0
    num_logits  how many of the last rows need logits
    """

    tokens: IntArray
    positions: IntArray
    num_chain: int
    among_nodes: BoolArray
    start: int
    offset: int
    num_logits: int

    @property
    def num_rows(self) -> int:
        """c + m."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one session's rows attend to under one window: arena rows [first, last), and the bias.

    rows    the session's rows on the step's row axis
    bias    (rows, last - first) in the model's dtype, 0 or -inf; None where all is visible, or
            with ``causal``, where the rows see exactly the rows up to themselves from 0
    folded  the bias repeated for every query head of a group; None beside a None bias
    """

    rows: slice
    first: int
    last: int
    bias: Tensor | None
    causal: bool = False
    folded: Tensor | None = None


@dataclass(slots=True, eq=False)
class StepTable:
    """The tensors of one step. Handed to the attention function through the model's keywords.

    token_ids, position_ids  (1, N) int64
    arena_rows               (N,) int64, where each row's K and V go
    logit_rows               (L,) int64, rows of the step that need logits, session by session
    """

    spans: Sequence[Span]
    token_ids: Tensor
    position_ids: Tensor
    arena_rows: Tensor
    logit_rows: Tensor
    dtype: torch.dtype
    group: int
    _views: dict[int | None, list[View]] = field(default_factory=dict)

    @classmethod
    def build(
        cls, spans: Sequence[Span], *, dtype: torch.dtype, device: torch.device, group: int
    ) -> "StepTable":
        """From the spans of all sessions. ``group``: query heads per K head, to repeat biases."""
        counts = [span.num_rows for span in spans]
        arena = [span.offset + span.start + np.arange(span.num_rows) for span in spans]
        ends = np.cumsum(counts)
        logit_rows = [
            np.arange(end - span.num_logits, end) for end, span in zip(ends, spans, strict=True)
        ]
        return cls(
            spans,
            _to_long([span.tokens for span in spans], device)[None],
            _to_long([span.positions for span in spans], device)[None],
            _to_long(arena, device),
            _to_long(logit_rows, device),
            dtype,
            group,
        )

    def views(self, window: int | None) -> list[View]:
        """What each session sees under a sliding window of ``window`` positions (None: no window).

        Computed at the first layer that asks, kept for the others.
        """
        found = self._views.get(window)
        if found is None:
            found = self._views[window] = self._make_views(window)
        return found

    def _make_views(self, window: int | None) -> list[View]:
        views: list[View] = []
        begin = 0
        for span in self.spans:
            rows = slice(begin, begin + span.num_rows)
            views.append(self._view(span, rows, window))
            begin = rows.stop
        return views

    def _view(self, span: Span, rows: slice, window: int | None) -> View:
        first_key = 0
        if window is not None:
            # Keys older than every row's window are cut off; they are all before the step.
            first_key = min(max(0, int(span.positions.min()) - window + 1), span.start)
        first, last = span.offset + first_key, span.offset + span.start + span.num_rows
        windowed = window is not None and int(span.positions.max()) - first_key >= window
        only_chain = span.num_chain == span.num_rows
        if not windowed and only_chain and (span.num_rows == 1 or span.start == 0):
            return View(rows, first, last, None, causal=span.num_rows > 1)
        visible = _visible(span, first_key, window if windowed else None)
        bias = torch.zeros(visible.shape, dtype=self.dtype)
        bias.masked_fill_(torch.from_numpy(~visible), -torch.inf)
        bias = bias.to(self.token_ids.device)
        folded = bias if self.group == 1 else bias.repeat(self.group, 1)
        return View(rows, first, last, bias, folded=folded)


def _visible(span: Span, first_key: int, window: int | None) -> BoolArray:
    """(rows, keys) bool, keys from ``first_key`` on: who sees whom."""
    rows, chain = span.num_rows, span.num_chain
    before = span.start - first_key
    visible = np.ones((rows, before + rows), dtype=np.bool_)
    step = visible[:, before:]
    step[:chain] = np.tri(chain, rows, dtype=np.bool_)
    step[chain:, chain:] = span.among_nodes
    if window is not None:
        key_positions = np.concatenate(
            [np.arange(first_key, span.start, dtype=np.int32), span.positions]
        )
        visible &= key_positions[None, :] > span.positions[:, None] - window
    return visible


def _to_long(parts: Sequence[IntArray | LongArray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)
