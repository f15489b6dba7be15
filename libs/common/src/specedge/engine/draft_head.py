"""Which tokens a drafter's head speaks of: the whole vocabulary, or the frequent ones only.

A head over fewer tokens is most of what makes a small drafter quick; what it cannot say, the
target says by itself. Row r of such a head is token ``tokens[r]``; everything outside the drafter
is told true token ids.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from specedge.errors import ModelUnusable
from specedge.tree.token_tree import IntArray

LongArray = npt.NDArray[np.int64]


class DraftHead:
    """Maps rows of a head to token ids.

    tokens  (v,) int32, distinct ids of the logical vocabulary; None: the head is the vocabulary's
            first ``vocab_size`` rows (a model may pad it)

    Raises ModelUnusable for ids that are none, or repeated.
    """

    def __init__(self, vocab_size: int, tokens: IntArray | None = None) -> None:
        self._is_whole = tokens is None
        self.tokens: IntArray = np.arange(vocab_size, dtype=np.int32) if tokens is None else tokens
        if len(self.tokens) == 0 or len(np.unique(self.tokens)) != len(self.tokens):
            raise ModelUnusable("a draft head names each of its tokens once, and at least one")
        self._order: LongArray = np.argsort(self.tokens, kind="stable").astype(np.int64)
        self._ascending = self.tokens[self._order]
        if self.tokens.min() < 0 or self.tokens.max() >= vocab_size:
            raise ModelUnusable(f"a draft head names tokens beyond the vocabulary's {vocab_size}")

    def __len__(self) -> int:
        """v, the number of tokens it can propose."""
        return len(self.tokens)

    def check_width(self, width: int) -> None:
        """Raise ModelUnusable if a model whose logits are ``width`` wide has not this head."""
        if width < len(self) or (not self._is_whole and width != len(self)):
            raise ModelUnusable(f"the head has {width} rows for {len(self)} tokens")

    def rows(self, logits: Tensor) -> Tensor:
        """(m, v) float32 of a model's logits (m, ≥ v): the rows that stand for tokens."""
        return logits[:, : len(self)].float()

    def rows_of(self, tokens: IntArray) -> LongArray:
        """int64 of the same shape: the head's row of each token, -1 where it has none."""
        if self._is_whole:
            return np.where(tokens < len(self), tokens, -1).astype(np.int64)
        found = np.searchsorted(self._ascending, tokens)
        place = np.minimum(found, len(self) - 1)
        return np.where(self._ascending[place] == tokens, self._order[place], -1)

    def token_ids(self, rows: Tensor) -> IntArray:
        """int32 of the same shape: the tokens that head rows stand for."""
        index: IntArray = rows.to("cpu").numpy().astype(np.int32)
        return index if self._is_whole else self.tokens[index].astype(np.int32)
