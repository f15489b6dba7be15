"""How good a drafter is on conversations held out: agreement and acceptance, without any serving.

Measured where it counts: at the positions of answers. Chain acceptance is what drafting one token
per level would give, round after round along the target's own text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from specedge.distill.batches import BatchMaker
from specedge.distill.corpus import Conversation
from specedge.distill.student import Student
from specedge.tree.token_tree import IntArray

CHAIN_DEPTH: Final = 5
_RANKS: Final = 4


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Figures over held-out answers.

    loss        cross-entropy to the target's kept probabilities, nats
    top_1       share of positions where the drafter's first token is the target's likeliest
    top_4       … where one of its first four is
    chain       mean tokens a round of ``CHAIN_DEPTH`` drafted in a row would commit, greedy answers
    """

    loss: float
    top_1: float
    top_4: float
    chain: float


@torch.no_grad()
def evaluate(
    student: Student, conversations: Sequence[Conversation], head_tokens: IntArray, vocab_size: int
) -> HeldOut:
    """Measure ``student`` (left in training mode as it was) on ``conversations``."""
    maker = BatchMaker(conversations, head_tokens, vocab_size=vocab_size, batch_tokens=4096)
    loss = top_1 = top_4 = rows = 0.0
    committed = rounds = 0
    for indices in maker.epoch(0):
        batch = maker.batch(indices).to(student.device)
        is_answer = np.concatenate([conversations[index].is_answer for index in indices])
        logprob = student(batch.token_ids, batch.rows).log_softmax(dim=1)
        picked = logprob.gather(1, batch.next_row)
        loss += float(-(picked * batch.next_p).sum(1).cpu()[is_answer].sum())
        known = batch.next_p[:, :1] > 0
        matches = (logprob.topk(_RANKS, dim=1).indices == batch.next_row[:, :1]) & known
        hits = matches.cpu().numpy()
        top_1 += hits[is_answer, 0].sum()
        top_4 += hits[is_answer].any(axis=1).sum()
        rows += is_answer.sum()
        for answer in _greedy_answers([conversations[index] for index in indices], hits[:, 0]):
            lengths = round_lengths(answer, CHAIN_DEPTH)
            committed += sum(lengths)
            rounds += len(lengths)
    rows = max(rows, 1)
    chain = committed / rounds if rounds else 1.0
    return HeldOut(float(loss / rows), float(top_1 / rows), float(top_4 / rows), chain)


def round_lengths(agrees: npt.NDArray[np.bool_], depth: int) -> list[int]:
    """Tokens of each round that drafts ``depth`` in a row along a text on whose positions the
    drafter ``agrees`` (n,) bool; the last round is left out, it was cut by the end."""
    lengths, place = [], 0
    while place + depth < len(agrees):
        missed = np.flatnonzero(~agrees[place : place + depth])
        accepted = int(missed[0]) if len(missed) else depth
        lengths.append(accepted + 1)
        place += accepted + 1
    return lengths


def _greedy_answers(
    conversations: Sequence[Conversation], agrees: npt.NDArray[np.bool_]
) -> list[npt.NDArray[np.bool_]]:
    found, first = [], 0
    for one in conversations:
        is_answer = one.is_answer
        rows = agrees[first : first + len(is_answer)]
        first += len(is_answer)
        if one.is_greedy:
            found.append(rows[is_answer])
    return found
