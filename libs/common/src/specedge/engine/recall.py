"""What a draft model is reminded of: tokens that followed the same words before, as probabilities
to blend with its own.

A small model copies badly; an n-gram index copies names, code and loops for nothing. The blend is a
mixture, as in pointer networks (Merity et al., arXiv 1609.07843):

    p(token) = claim(token) + (1 - sum of claims) * modelled(token)

where a claim is prompt lookup's estimate, of which ``WEIGHT`` is believed. Owns the mixture; knows
neither how nodes are ranked by it nor what a tree is worth.

m nodes, v tokens of the drafter's head, k recalled tokens a node at most.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from specedge.engine.draft_head import DraftHead
from specedge.engine.prompt_lookup import PromptLookupDrafter
from specedge.params import SamplingParams
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import FloatArray, IntArray, TokenTree

WEIGHT: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Recalled:
    """token (m, k) int32, -1 where there is none; claim (m, k) float32, 0 there, a row's sum at
    most ``WEIGHT``."""

    token: IntArray
    claim: FloatArray


class Recollection:
    """One session's memory of its own text. Mutable; one owner thread."""

    def __init__(self, committed: IntArray, limit: int) -> None:
        self._lookup = PromptLookupDrafter(branch=limit).open(committed, SamplingParams())

    def of(self, tree: TokenTree, nodes: IntArray) -> Recalled | None:
        """What followed at ``nodes`` ((m,) ids of ``tree``); None if nothing did at any of them."""
        found = self._lookup.expand(tree, nodes)
        if (found.token < 0).all():
            return None
        return Recalled(found.token, (WEIGHT * np.exp(found.logprob)).astype(np.float32))

    def reroot(self, rerooting: Rerooting) -> None:
        """More text is committed."""
        self._lookup.reroot(rerooting)


@dataclass(frozen=True, slots=True, eq=False)
class Blended:
    """Log-probabilities (m, v + k) float32: the head's rows, then what was recalled beyond them;
    ``beyond`` (m, k) int32 says which tokens those are, -1 (at -inf) where there is none."""

    logprob: Tensor
    beyond: IntArray


def blend(scores: Tensor, recalled: Recalled, head: DraftHead) -> Blended:
    """Mix in what was recalled. ``scores`` (m, v) float32: logits over the head's tokens."""
    device = scores.device
    claims = recalled.claim.astype(np.float64)
    left = torch.from_numpy(np.log1p(-claims.sum(axis=1, keepdims=True))).float().to(device)
    logprob = scores - scores.logsumexp(dim=1, keepdim=True) + left
    head_rows = head.rows_of(recalled.token)
    node, column = np.nonzero(head_rows >= 0)
    at = (torch.from_numpy(node).to(device), torch.from_numpy(head_rows[node, column]).to(device))
    log_claim = np.log(np.maximum(recalled.claim, 1e-30))
    said = torch.from_numpy(log_claim[node, column]).to(device)
    logprob[at] = torch.logaddexp(logprob[at], said)
    is_beyond = (recalled.token >= 0) & (head_rows < 0)
    beyond_logprob = np.where(is_beyond, log_claim, -np.inf).astype(np.float32)
    whole = torch.cat([logprob, torch.from_numpy(beyond_logprob).to(device)], dim=1)
    return Blended(whole, np.where(is_beyond, recalled.token, -1).astype(np.int32))


def best_blended(
    scores: Tensor, recalled: Recalled, head: DraftHead, num_children: int
) -> tuple[IntArray, FloatArray]:
    """The likeliest of the mixture, (m, num_children) tokens and log-probabilities, falling; token
    -1 at -inf where there are fewer. Without making the mixture: what was not recalled keeps its
    order, so that it is among the head's own best."""
    modelled = scores.log_softmax(dim=1)
    top = modelled.topk(min(num_children, len(head)), dim=1)
    rows = head.rows_of(recalled.token)
    said = modelled.gather(1, torch.from_numpy(np.maximum(rows, 0)).to(scores.device))
    left = np.log1p(-recalled.claim.astype(np.float64).sum(axis=1, keepdims=True))
    reminded = np.where(rows >= 0, said.cpu().numpy() + left, -np.inf)
    with np.errstate(divide="ignore"):
        reminded = np.logaddexp(reminded, np.log(recalled.claim))
    others = top.values.cpu().numpy() + left
    tokens = head.token_ids(top.indices)
    others[(tokens[:, :, None] == recalled.token[:, None, :]).any(axis=2)] = -np.inf
    token = np.concatenate([recalled.token, tokens], axis=1)
    logprob = np.concatenate([reminded, others], axis=1).astype(np.float32)
    best = np.argsort(-logprob, axis=1, kind="stable")[:, :num_children]
    token, logprob = (np.take_along_axis(each, best, axis=1) for each in (token, logprob))
    return np.where(logprob > -np.inf, token, -1).astype(np.int32), logprob
