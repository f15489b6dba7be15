"""One forward pass over many sessions, as tensors: which row belongs to whom and may see what.

Built once per step from plain values, then read by every layer. Knows nothing of models, sampling
or leases; it is told where each session's rows lie in the arena.

The step's row axis is N rows, span after span; a target's span is one session's chain, then its
drafted nodes. A span's key axis is its slot's rows, those of this step last:

    rows of a step   | span 0: chain, nodes | span 1: chain, nodes | ...
    keys of a span   [0, start) from before | [start, start + n) its own rows
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from specedge.tree.mask import ancestor_mask
from specedge.tree.token_tree import BoolArray, IntArray, TokenTree

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Rows of one session in a step: n new rows, which see keys [0, start + n) of its slot.

    tokens      (n,) int32
    positions   (n,) int32  position of each row in the session's sequence
    start       the slot's row where the first of them goes
    offset      arena row of the slot's row 0
    num_logits  how many of the last rows need logits
    recent      (n, r) bool  which of the last r keys each row sees; it sees all keys before those.
                None: each row sees the keys up to itself, and key i has position i
    recent_positions  (r,) int32  positions of those r keys; None beside None
    """

    tokens: IntArray
    positions: IntArray
    start: int
    offset: int
    num_logits: int
    recent: BoolArray | None = None
    recent_positions: IntArray | None = None

    @property
    def num_rows(self) -> int:
        """n."""
        return len(self.tokens)

    @property
    def num_keys(self) -> int:
        """Keys in the slot once the rows are written."""
        return self.start + self.num_rows


def chain_span(chain: IntArray, *, start: int, offset: int, num_logits: int) -> Span:
    """Committed tokens at positions start …, the last ``num_logits`` of them with logits."""
    positions = np.arange(start, start + len(chain), dtype=np.int32)
    return Span(chain, positions, start, offset, num_logits)


def tree_span(chain: IntArray, tree: TokenTree, *, start: int, offset: int) -> Span:
    """``chain``, whose last token is the tree's root, then the drafted nodes; logits at all nodes,
    the root's first."""
    if tree.num_drafted == 0:
        return chain_span(chain, start=start, offset=offset, num_logits=1)
    before_root = len(chain) - 1
    root_position = start + before_root
    positions = np.concatenate(
        [np.arange(start, root_position, dtype=np.int32), root_position + tree.depth]
    )
    rows = len(positions)
    recent = np.tri(rows, dtype=np.bool_)
    recent[before_root:, before_root:] = ancestor_mask(tree.parent)
    tokens = np.concatenate([chain, tree.token[1:]])
    return Span(tokens, positions, start, offset, len(tree), recent, positions)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one session's rows attend to under one window: arena rows [first, last), and the bias.

    rows      the session's rows on the step's row axis
    bias      (rows, last - first) in the model's dtype, 0 or -inf; None where all is visible, or
              with ``causal``, where the rows see exactly the rows up to themselves from 0
    gathered  (last - first,) int64: the arena rows themselves, where they do not lie side by side
    """

    rows: slice
    first: int
    last: int
    bias: Tensor | None
    causal: bool = False
    gathered: Tensor | None = None
    _folded: dict[int, Tensor] = field(default_factory=dict)

    def of(self, plane: Tensor) -> Tensor:
        """(heads, last - first, dim): what it sees of a plane of K or V."""
        if self.gathered is None:
            return plane[:, self.first : self.last]
        return plane.index_select(1, self.gathered)

    def hold(self, bias: Tensor) -> None:
        """Change what is seen, in the tensors that were handed out."""
        assert self.bias is not None  # a view without one sees everything, for good
        self.bias.copy_(bias)
        for group, folded in self._folded.items():
            folded.view(group, *self.bias.shape).copy_(self.bias)

    def folded(self, group: int) -> Tensor | None:
        """The bias repeated for ``group`` query heads; None beside a None bias.

        Made when a layer asks, kept for the others: layers may differ in their groups, and a
        prefill's bias, which is large, is never asked for.
        """
        if self.bias is None or group == 1:
            return self.bias
        found = self._folded.get(group)
        if found is None:
            found = self._folded[group] = self.bias.repeat(group, 1)
        return found


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
    _views: dict[int | None, list[View]] = field(default_factory=dict)

    @classmethod
    def build(
        cls, spans: Sequence[Span], *, dtype: torch.dtype, device: torch.device
    ) -> "StepTable":
        """From the spans of all sessions."""
        arena = [span.offset + span.start + np.arange(span.num_rows) for span in spans]
        return cls(
            spans,
            _to_long([span.tokens for span in spans], device)[None],
            _to_long([span.positions for span in spans], device)[None],
            _to_long(arena, device),
            _to_long(rows_with_logits(spans), device),
            dtype,
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
        first_key = 0 if window is None else _first_key(span, window)
        first, last = span.offset + first_key, span.offset + span.num_keys
        cuts = window is not None and int(span.positions.max()) - first_key >= window
        if span.recent is None and not cuts and (span.num_rows == 1 or span.start == first_key):
            return View(rows, first, last, None, causal=span.num_rows > 1)
        visible = visible_keys(span, first_key, window if cuts else None)
        bias = bias_of(visible, self.dtype, self.token_ids.device)
        return View(rows, first, last, bias)


def rows_with_logits(spans: Sequence[Span]) -> list[LongArray]:
    """Of each span, the rows of the step that need logits."""
    ends = np.cumsum([span.num_rows for span in spans])
    return [np.arange(end - span.num_logits, end) for end, span in zip(ends, spans, strict=True)]


def bias_of(visible: BoolArray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 where a row sees a key and -inf elsewhere, filled in on the device: of a long prompt's
    chunk it is large, and a byte a pair is what it takes on the way there."""
    hidden = torch.from_numpy(~visible).to(device)
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


def _first_key(span: Span, window: int) -> int:
    """Keys before it are outside every row's window. Only keys whose position is their number
    are cut off, which those before the recent ones are."""
    num_recent = span.num_rows if span.recent is None else span.recent.shape[1]
    oldest = int(span.positions.min()) - window + 1
    return min(max(0, oldest), span.num_keys - num_recent)


def visible_keys(span: Span, first_key: int, window: int | None) -> BoolArray:
    """(rows, keys) bool, keys from ``first_key`` on: who sees whom under ``window``."""
    rows = span.num_rows
    recent = np.tri(rows, dtype=np.bool_) if span.recent is None else span.recent
    before = span.num_keys - recent.shape[1]
    visible = np.ones((rows, span.num_keys - first_key), dtype=np.bool_)
    visible[:, before - first_key :] = recent
    if window is not None:
        recent_positions = (
            span.positions if span.recent_positions is None else span.recent_positions
        )
        plain = np.arange(first_key, before, dtype=np.int32)
        key_positions = np.concatenate([plain, recent_positions])
        visible &= key_positions[None, :] > span.positions[:, None] - window
    return visible


def _to_long(parts: Sequence[IntArray | LongArray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)
