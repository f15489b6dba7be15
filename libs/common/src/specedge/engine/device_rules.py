"""The rules of ``specedge.sampling.rules`` on a device, for all nodes of one tree at once.

The same steps in the same order, each rounded by itself, so that on a CPU the bits are the
reference's. What that forbids: dividing by a host scalar (CUDA multiplies by its reciprocal), and
fused forms such as ``sub(..., alpha=)``. Such scalars are filled in on the device: one that is
brought there (``new_tensor``) waits for the whole pass first.

n nodes, V the logical vocabulary; everything is (n, V) float32 unless it says otherwise.
"""

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from specedge.engine.ports import Choosing
from specedge.params import SamplingParams
from specedge.sampling.rules import MIN_TEMPERATURE, TOP_P_UNITS
from specedge.tree.mask import ancestor_mask
from specedge.tree.token_tree import IntArray, TokenTree

# Top-p looks at so many of the likeliest tokens before it resorts to sorting the vocabulary.
TOP_P_HEADS: Final = (512, 8192, 2**62)


def changes_nothing(choosing: Choosing) -> bool:
    """Whether the choice is the argmax of the logits as they are, at every node."""
    params = choosing.params
    return (
        params.is_greedy
        and not params.has_penalties
        and not params.logit_bias
        and (not choosing.stop_ids or params.min_tokens <= _num_generated(choosing))
    )


def process_rows(x: Tensor, tree: TokenTree, choosing: Choosing) -> Tensor:
    """Logits of a tree's nodes as the sampler sees them. Overwrites ``x``; returns the result."""
    params = choosing.params
    if params.has_penalties:
        x = _penalise(x, tree, choosing)
    if params.logit_bias:
        tokens, biases = zip(*params.logit_bias, strict=True)
        index = torch.tensor(tokens, device=x.device)
        x[:, index] += torch.tensor(biases, dtype=torch.float32, device=x.device)
    _mask_early_stops(x, tree, choosing)
    if params.is_greedy:
        return x
    x = x / x.new_full((), max(params.temperature, MIN_TEMPERATURE))
    if 0 < params.top_k < x.shape[1]:
        threshold = x.topk(params.top_k, dim=1).values[:, -1:]
        x.masked_fill_(x < threshold, -torch.inf)
    if params.top_p < 1.0:
        x = _top_p(x, params.top_p)
    if params.min_p > 0.0:
        below_max = x.double() - x.max(dim=1, keepdim=True).values.double()
        x.masked_fill_(below_max < math.log(params.min_p), -torch.inf)
    return x


def _num_generated(choosing: Choosing) -> int:
    return len(choosing.committed) - choosing.prompt_len


def _penalise(x: Tensor, tree: TokenTree, choosing: Choosing) -> Tensor:
    """Of the tokens that came before alone: a table of the whole vocabulary for each node would
    take the host a hundred times as long to make and bring over, while the device waits."""
    params: SamplingParams = choosing.params
    told = torch.from_numpy(_history(tree, choosing, x.shape[1])).to(x.device)
    tokens, in_prompt, count = told[0].long(), told[1] > 0, told[2:].to(torch.float32)
    y = x[:, tokens]
    penalty = x.new_full((), params.repetition_penalty)
    seen = in_prompt | (count > 0)
    y = torch.where(seen, torch.where(y > 0, y / penalty, y * penalty), y)
    y = y - x.new_full((), params.frequency_penalty) * count
    x[:, tokens] = torch.where(count > 0, y - x.new_full((), params.presence_penalty), y)
    return x


def _history(tree: TokenTree, choosing: Choosing, vocab_size: int) -> IntArray:
    """(2 + n, k), so that it is brought over in one go: the k tokens that came before any node,
    ascending; whether each is in the prompt; per node, how often each was generated before it."""
    committed, prompt_len = choosing.committed, choosing.prompt_len
    in_prompt, anywhere = np.zeros((2, vocab_size), dtype=np.bool_)
    in_prompt[committed[:prompt_len]] = True
    anywhere[committed] = anywhere[tree.token] = True
    tokens = np.flatnonzero(anywhere)
    told = np.empty((2 + len(tree), len(tokens)), dtype=np.int32)
    told[0], told[1] = tokens, in_prompt[tokens]
    told[2:] = np.bincount(committed[prompt_len:], minlength=vocab_size)[tokens]
    node, ancestor = np.nonzero(ancestor_mask(tree.parent)[:, 1:])
    np.add.at(told, (2 + node, np.searchsorted(tokens, tree.token[ancestor + 1])), 1)
    return told


def _mask_early_stops(x: Tensor, tree: TokenTree, choosing: Choosing) -> None:
    early = np.flatnonzero(_num_generated(choosing) + tree.depth < choosing.params.min_tokens)
    if len(early) and choosing.stop_ids:
        rows = torch.from_numpy(early).to(x.device)[:, None]
        stops = torch.tensor(sorted(choosing.stop_ids), device=x.device)[None]
        x[rows, stops] = -torch.inf


def _top_p(x: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose mass reaches ``top_p``; see the reference."""
    maximum = x.max(dim=1, keepdim=True).values
    limit = top_p * _mass(x, maximum).sum(dim=1, keepdim=True).double()
    kept = torch.full_like(x, -torch.inf)
    rows = torch.arange(len(x), device=x.device)
    for head in TOP_P_HEADS:
        count = min(head, x.shape[1])
        values, order, cut = _cut(x[rows], count, maximum[rows], limit[rows])
        decided = _is_decided(values, cut) if count < x.shape[1] else torch.ones_like(cut[:, 0])
        found = kept[rows[decided]]
        found.scatter_(1, order[decided], values.masked_fill(cut, -torch.inf)[decided])
        kept[rows[decided]] = found
        rows = rows[~decided]
        if len(rows) == 0:
            break
    return kept


def _cut(x: Tensor, count: int, maximum: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` largest of each row, falling; their ids; and which of them are masked."""
    values, order = _falling(x, count)
    mass = _mass(values, maximum)
    cut = (mass.cumsum(dim=1) - mass).double() >= limit
    cut[:, 0] = False
    return values, order, cut


def _is_decided(values: Tensor, cut: Tensor) -> Tensor:
    """(rows,) bool: whether all tokens beyond a head of ``values`` are masked too. They are smaller
    than its last one or equal to it: so it must be cut, and the cut must begin before its equals.
    """
    last = values[:, -1:]
    first_cut = values.gather(1, cut.int().argmax(dim=1, keepdim=True))
    return ((cut[:, -1:] & (first_cut > last)) | torch.isneginf(last))[:, 0]


def _falling(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, falling; the whole row in a stable order if all are asked
    (the lower id first among equals)."""
    if count == x.shape[1]:
        values, order = torch.sort(x, dim=1, descending=True, stable=True)
        return values, order
    values, order = torch.topk(x, count, dim=1)
    # topk leaves equals in any order: by id first, then stably by value.
    order = order.sort(dim=1).values
    values, position = torch.sort(x.gather(1, order), dim=1, descending=True, stable=True)
    return values, order.gather(1, position)


def _mass(x: Tensor, maximum: Tensor) -> Tensor:
    """exp(x - max) in units of 2**-40, rounded to int64. On a CPU by numpy's exp, as the reference
    does: torch's may differ in the last bit."""
    below_max = x.double() - maximum.double()
    if x.device.type == "cpu":
        exp = torch.from_numpy(np.exp(below_max.numpy()))
    else:
        exp = torch.exp(below_max)
    return torch.round(exp * TOP_P_UNITS).long()
