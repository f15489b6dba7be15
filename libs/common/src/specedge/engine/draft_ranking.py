"""From a drafter's logits to the children it proposes: which tokens, in which order, at what score.

``Likeliest`` ranks by the drafter's probability. ``Coupled`` adds the target's own noise first. The
target takes argmax(log p + gumbel(seed, position, token)); the noise is a function of what an edge
knows, so a drafter whose q is near p finds the same maximum nearly always, also where p itself is
nearly flat (drafter-invariant coupling: Daliri, Musco, Suresh, arXiv 2408.07978).

Both process their logits as the target's sampler does (bias, temperature, and coupled also top-k,
top-p and min-p), but for penalties and ``min_tokens``, which need the text: where a request asks
for those, a drafter that ignores them is merely less often right.

m nodes, v tokens of the drafter's head, k children.
"""

import math
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from specedge.engine.device_noise import gumbel_of_tokens
from specedge.engine.draft_head import DraftHead
from specedge.engine.recall import Recalled, best_blended, blend
from specedge.params import SamplingParams
from specedge.sampling.rules import MIN_TEMPERATURE
from specedge.tree.calibration import ScoreKind
from specedge.tree.token_tree import FloatArray, IntArray

# How much further than the target's own temperature a coupled drafter's distribution is sharpened.
# Of a token that the drafter holds unlikely its estimate is the least certain, and high noise
# picks just such tokens: the noise must be trusted a little less than the drafter.
SHARPNESS: Final = 1.1
# A temperature on the sum, which moves no rank: at this one the score tells best how likely the
# target is to agree, over drafters from poor to good. Measured: docs/adr/0011.
SPREAD: Final = 1.25
# A token that truncation masks by the drafter's q may be one that the target keeps: such tokens
# are not dropped but ranked behind all others.
MASKED_NATS: Final = 16.0
# Truncation to more tokens than this masks next to nothing, and finding out which costs the most.
MAX_KEPT: Final = 512


class Ranking(Protocol):
    """One session's. Called in inference mode, by the thread that owns the drafter."""

    @property
    def kind(self) -> ScoreKind:
        """What its scores are."""
        ...

    def best(
        self, logits: Tensor, positions: IntArray, recalled: Recalled | None = None
    ) -> tuple[IntArray, FloatArray]:
        """The best k tokens (m, k) int32 and their scores (m, k) float32, falling, from logits
        (m, ≥ v), blended with what was recalled. ``positions`` (m,) are those of the tokens being
        chosen."""
        ...

    def forget_before(self, position: int) -> None:
        """No position before this one will be asked again."""
        ...


class Likeliest:
    """By log-probability at the temperature that the target samples with, at 1 if it is greedy."""

    kind: Final = ScoreKind.LOGPROB

    def __init__(
        self, head: DraftHead, params: SamplingParams, num_children: int, device: torch.device
    ) -> None:
        self._logits = _ScaledLogits(head, params, device)
        self._head = head
        self._num_children = num_children

    def best(
        self, logits: Tensor, positions: IntArray, recalled: Recalled | None = None
    ) -> tuple[IntArray, FloatArray]:
        """See ``Ranking.best``."""
        x = self._logits.scaled(logits)
        if recalled is None:
            return _best(x, self._num_children, self._head)
        return best_blended(x, recalled, self._head, self._num_children)

    def forget_before(self, position: int) -> None:
        """Nothing is remembered."""


class Coupled:
    """By log-probability plus the target's noise; the score is the log-softmax of that sum, spread
    a little, over the whole head: how far a token stands out from everything it competes with.

    The noise of a position is computed once, whatever tree or round asks for it.
    """

    kind: Final = ScoreKind.COUPLED

    def __init__(
        self,
        head: DraftHead,
        params: SamplingParams,
        num_children: int,
        device: torch.device,
        sharpness: float = SHARPNESS,
    ) -> None:
        self._logits = _ScaledLogits(head, params, device)
        self._gain = sharpness / SPREAD
        self._head = head
        self._params = params
        self._num_children = num_children
        self._device = device
        self._noise: dict[int, Tensor] = {}  # position → (v,) float32, spread

    def best(
        self, logits: Tensor, positions: IntArray, recalled: Recalled | None = None
    ) -> tuple[IntArray, FloatArray]:
        """See ``Ranking.best``."""
        x = self._logits.scaled(logits)
        noise, beyond = self._noise_at(positions), None
        if recalled is not None:
            blended = blend(x, recalled, self._head)
            x, beyond = blended.logprob, blended.beyond
            more = self._noise_beyond(positions, beyond)
            noise = torch.cat([noise.expand(len(x), -1), more], dim=1)
        scores = x * self._gain + noise
        if self._params.truncates:
            scores -= MASKED_NATS * (x < _least_kept(x, self._params))
        return _best(scores, self._num_children, self._head, beyond)

    def forget_before(self, position: int) -> None:
        """See ``Ranking.forget_before``."""
        self._noise = {at: row for at, row in self._noise.items() if at >= position}

    def _noise_beyond(self, positions: IntArray, beyond: IntArray) -> Tensor:
        """(m, k) float32, of tokens that the head does not speak of."""
        rows = [
            gumbel_of_tokens(self._params.seed, position, np.maximum(tokens, 0), self._device)
            for position, tokens in zip(positions.tolist(), beyond, strict=True)
        ]
        return torch.stack(rows) / SPREAD

    def _noise_at(self, positions: IntArray) -> Tensor:
        """(m, v) float32, or (1, v) where all are the same."""
        distinct, row = np.unique(positions, return_inverse=True)
        for position in distinct.tolist():
            if position not in self._noise:
                noise = gumbel_of_tokens(
                    self._params.seed, position, self._head.tokens, self._device
                )
                self._noise[position] = noise / SPREAD
        rows = torch.stack([self._noise[position] for position in distinct.tolist()])
        return rows if len(distinct) == 1 else rows[torch.from_numpy(row).to(self._device)]


def _least_kept(x: Tensor, params: SamplingParams) -> Tensor:
    """(m, 1) float32: the value below which top-k, top-p and min-p mask a row of ``x`` (m, v), or
    -inf if they keep more than ``MAX_KEPT`` tokens. Quick, and near the sampler's exact rules."""
    is_top_k = 0 < params.top_k <= min(MAX_KEPT, x.shape[1])
    values = x.topk(params.top_k if is_top_k else min(MAX_KEPT, x.shape[1]), dim=1).values
    least = values[:, -1:] if is_top_k else torch.full_like(values[:, :1], -math.inf)
    if params.top_p < 1.0:
        mass = (values if is_top_k else x).logsumexp(dim=1, keepdim=True)
        probability = (values - mass).exp()
        num_kept = (probability.cumsum(dim=1) - probability < params.top_p).sum(dim=1, keepdim=True)
        last_kept = values.gather(1, (num_kept - 1).clamp(min=0))
        least = torch.where(num_kept < values.shape[1], last_kept.maximum(least), least)
    if params.min_p > 0.0:
        least = least.maximum(values[:, :1] + math.log(params.min_p))
    return least


class _ScaledLogits:
    """A head's logits, biased as the request says and divided by its temperature."""

    def __init__(self, head: DraftHead, params: SamplingParams, device: torch.device) -> None:
        self._head = head
        temperature = 1.0 if params.is_greedy else max(params.temperature, MIN_TEMPERATURE)
        self._inverse_temperature = 1.0 / temperature
        self._bias: Tensor | None = None
        if params.logit_bias:
            bias = dict(params.logit_bias)
            rows = [bias.get(token, 0.0) for token in head.tokens.tolist()]
            self._bias = torch.tensor(rows, dtype=torch.float32, device=device)

    def scaled(self, logits: Tensor) -> Tensor:
        """(m, v) float32 of ``logits`` (m, ≥ v): perhaps the same memory, so not to be changed."""
        x = self._head.rows(logits)
        if self._bias is not None:
            x = x + self._bias
        return x if self._inverse_temperature == 1.0 else x * self._inverse_temperature


def _best(
    scores: Tensor, num_children: int, head: DraftHead, beyond: IntArray | None = None
) -> tuple[IntArray, FloatArray]:
    """The largest of ``scores`` (m, v), normalised over their row; with ``beyond`` (m, e) int32,
    they are (m, v + e), the last columns those tokens'."""
    top = scores.topk(num_children, dim=1)
    logprob = (top.values - scores.logsumexp(dim=1, keepdim=True)).cpu().numpy()
    if beyond is None:
        return head.token_ids(top.indices), logprob
    column = top.indices.cpu().numpy() - len(head)
    token = head.token_ids(top.indices.clamp(max=len(head) - 1))
    other = np.take_along_axis(beyond, np.maximum(column, 0), axis=1)
    return np.where(column >= 0, other, token).astype(np.int32), logprob
