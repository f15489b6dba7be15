"""From conversations to what one training step needs: padded tokens and the target's probabilities.

Batches hold conversations of about one length, so that little is padding; their order is a function
of seed and epoch alone, so that training goes on anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from specedge.distill.corpus import Conversation
from specedge.tree.token_tree import IntArray

# A user's turn teaches the language, but nobody drafts it, and a made-up one is hard to foresee.
PROMPT_WEIGHT: Final = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step's input.

    token_ids (b, t) int64   padded with 0 at the end      rows (m,) int64   flat positions learnt
    next_row  (m, K) int64   head rows of the target's likeliest next tokens; 0 where the head has
                             none, with probability 0
    next_p    (m, K) float32 their probabilities
    weight    (m,) float32   what a position counts; 1 in answers
    """

    token_ids: Tensor
    rows: Tensor
    next_row: Tensor
    next_p: Tensor
    weight: Tensor
    num_tokens: int

    def to(self, device: torch.device) -> "Batch":
        """The same on another device, or this one if it is there already."""
        return Batch(
            self.token_ids.to(device),
            self.rows.to(device),
            self.next_row.to(device),
            self.next_p.to(device),
            self.weight.to(device),
            self.num_tokens,
        )


class BatchMaker:
    """Cuts epochs of ``conversations`` into batches of about ``batch_tokens`` padded tokens."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        head_tokens: IntArray,
        *,
        vocab_size: int,
        batch_tokens: int,
        seed: int = 0,
    ) -> None:
        self._conversations = conversations
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._row_of = np.full(vocab_size, -1, dtype=np.int64)
        self._row_of[head_tokens] = np.arange(len(head_tokens))

    def epoch(self, number: int) -> list[list[int]]:
        """Conversations of each batch of an epoch, in the order to train on them."""
        rng = np.random.default_rng([self._seed, number])
        lengths = np.array([len(one.tokens) for one in self._conversations])
        # Equal lengths are shuffled too: batches differ from epoch to epoch.
        order = np.argsort(lengths + rng.random(len(lengths)) * 16, kind="stable")
        batches: list[list[int]] = [[]]
        for index in order:
            padded = (len(batches[-1]) + 1) * int(lengths[index])
            if batches[-1] and padded > self._batch_tokens:
                batches.append([])
            batches[-1].append(int(index))
        return [batches[place] for place in rng.permutation(len(batches))]

    def batch(self, indices: Sequence[int]) -> Batch:
        """The tensors of one batch."""
        chosen = [self._conversations[index] for index in indices]
        width = max(len(one.tokens) for one in chosen)
        token_ids = np.zeros((len(chosen), width), dtype=np.int64)
        rows, next_row, next_p, weight = [], [], [], []
        for place, one in enumerate(chosen):
            token_ids[place, : len(one.tokens)] = one.tokens
            rows.append(place * width + np.flatnonzero(one.has_next))
            weight.append(np.where(one.is_answer, 1.0, PROMPT_WEIGHT))
            head_row = self._row_of[one.next_id]
            probability = np.exp(one.next_logprob.astype(np.float32))
            next_row.append(np.maximum(head_row, 0))
            next_p.append(np.where(head_row >= 0, probability, 0.0).astype(np.float32))
        return Batch(
            torch.from_numpy(token_ids),
            torch.from_numpy(np.concatenate(rows)),
            torch.from_numpy(np.concatenate(next_row)),
            torch.from_numpy(np.concatenate(next_p)),
            torch.from_numpy(np.concatenate(weight).astype(np.float32)),
            sum(len(one.tokens) for one in chosen),
        )
