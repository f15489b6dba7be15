"""The reference sampler: from the target's logits at one position to its token there.

Pure numpy, one row at a time, written to be read; every device sampler is tested against it. V is
the *logical* vocabulary: rows that a model pads its logits with are cut off before.

All values are float32 and parameters are rounded to float32 before they are used. A twin on
another library gives the same bits if it keeps these steps, in this order, each rounded by itself
(no fused multiply-add, no division by way of a reciprocal):

 1  repetition   x > 0: x / r, else x * r     once per distinct token of prompt + generated
 2  frequency    x - (f * count)              count in generated; the product is rounded first
 3  presence     x - p                        once per distinct token of generated
 4  bias         x + bias
 5  min_tokens   stop ids = -inf while fewer tokens were generated
 6  temperature  x / max(t, 1e-5)             greedy stops before this step
 7  top-k        x < the k-th largest: -inf   ties with the k-th stay
 8  top-p        see ``_top_p``               integer sums, so no order of summation matters
 9  min-p        float64(x) - float64(max) < log(min_p): -inf

A token is masked by -inf. The likeliest token survives steps 7 to 9 whatever the parameters.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.params import SamplingParams
from specedge.sampling.noise import gumbel
from specedge.tree.token_tree import FloatArray, IntArray

NEG_INF: Final = np.float32(-np.inf)
# A temperature so small that only near ties are still random; below it a division could overflow.
MIN_TEMPERATURE: Final = 1e-5
# Top-p adds probabilities as integers, in this fraction of the likeliest one: 2**23 equally likely
# tokens still fit in 63 bits.
TOP_P_UNITS: Final = 2.0**40


def process_logits(
    logits: FloatArray,
    params: SamplingParams,
    prompt: IntArray,
    generated: IntArray,
    stop_ids: frozenset[int],
) -> FloatArray:
    """Logits (V,) float32 as the sampler sees them: (V,) float32, a new array.

    ``prompt`` (p,) and ``generated`` (g,) are the tokens before this position; at a tree node,
    ``generated`` ends with the node's own path. All ids lie in [0, V).
    """
    x = np.array(logits, dtype=np.float32)
    _penalise(x, params, prompt, generated)
    for token, bias in params.logit_bias:
        x[token] += np.float32(bias)
    if len(generated) < params.min_tokens:
        x[list(stop_ids)] = NEG_INF
    if params.is_greedy:
        return x
    x /= np.float32(max(params.temperature, MIN_TEMPERATURE))
    if 0 < params.top_k < len(x):
        x[x < np.partition(x, -params.top_k)[-params.top_k]] = NEG_INF
    if params.top_p < 1.0:
        _top_p(x, params.top_p)
    if params.min_p > 0.0:
        below_max = x.astype(np.float64) - np.float64(x.max())
        x[below_max < math.log(params.min_p)] = NEG_INF
    return x


def choose(processed: FloatArray, params: SamplingParams, position: int) -> int:
    """The token at ``position``, from processed logits (V,): argmax of logits plus noise, or of
    the logits alone if greedy; the lowest id wins a tie."""
    if params.is_greedy:
        return int(processed.argmax())
    return int((processed + gumbel(params.seed, position, len(processed))).argmax())


def log_softmax(logits: FloatArray) -> FloatArray:
    """Log-probabilities (..., V) float32, computed in float64 and rounded once."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x.astype(np.float32)


def _penalise(x: FloatArray, params: SamplingParams, prompt: IntArray, generated: IntArray) -> None:
    if not params.has_penalties:
        return
    seen = np.unique(np.concatenate([prompt, generated]))
    penalty = np.float32(params.repetition_penalty)
    x[seen] = np.where(x[seen] > 0, x[seen] / penalty, x[seen] * penalty)
    token, count = np.unique(generated, return_counts=True)
    x[token] -= np.float32(params.frequency_penalty) * count.astype(np.float32)
    x[token] -= np.float32(params.presence_penalty)


def _top_p(x: FloatArray, top_p: float) -> None:
    """Mask all but the smallest set of likeliest tokens whose mass reaches ``top_p``.

    Tokens are taken by falling logit, the lower id first among equals (a stable sort). A token
    stays if the mass of those before it is below ``top_p`` of the whole; the first always stays.
    A token's mass is the integer nearest to exp(x - max) * 2**40, with x, max and exp in float64.
    """
    order = np.argsort(-x, kind="stable")
    below_max = x[order].astype(np.float64) - np.float64(x[order[0]])
    mass: npt.NDArray[np.int64] = np.rint(np.exp(below_max) * TOP_P_UNITS).astype(np.int64)
    before = np.cumsum(mass) - mass
    cut = before.astype(np.float64) >= top_p * float(mass.sum())
    cut[0] = False
    x[order[cut]] = NEG_INF
