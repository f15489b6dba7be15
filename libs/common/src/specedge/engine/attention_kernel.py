"""Attention of a few rows over slotted KV, compiled for one CPU thread: span by span, and of each
some keys at a time for all the queries that see them. float32; all arrays are told by their
addresses.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from specedge.engine.addresses import Compiled, compiled, floats, longs
from specedge.engine.attention_block import TOGETHER, blending_of, scoring_of
from specedge.engine.row_kernels import softmax

# Half of a small first cache.
_TILE_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, key heads, and numbers in each. Compiled in, so that loops unroll."""

    heads: int
    groups: int
    dim: int

    @property
    def width(self) -> int:
        """Numbers of a row of queries."""
        return self.heads * self.dim

    @property
    def key_width(self) -> int:
        """Numbers of a row of keys."""
        return self.groups * self.dim

    @property
    def sharers(self) -> int:
        """Query heads that share a key head: neighbours."""
        return self.heads // self.groups


@cache
def attention_of(heads: Heads) -> Compiled:
    """``attend(q, keys, values, stride, spans, num_spans, bias, scores, powers, out)``.

    q, out         (m, width)
    keys, values   planes (groups, stride, dim)
    spans          (num_spans, 5) int64: a span's rows from, to; its keys from, to; where its bias
                   begins in ``bias``, (rows, keys) numbers, or -1 where all is visible
    scores, powers scratch: rows * sharers * keys of the longest span, and keys
    """
    score, weigh, blend = _score_of(heads), _weigh_of(heads.sharers), _blend_of(heads)
    width, groups, dim, shared = heads.width, heads.groups, heads.dim, heads.sharers * heads.dim

    def attend(  # noqa: PLR0913
        q: int, keys: int, values: int, stride: int, spans: int, num_spans: int, bias: int,
        scores: int, powers: int, out: int,
    ) -> None:  # fmt: skip
        for number in range(num_spans):
            span = longs(spans + number * 5 * 8)
            num_rows, num_keys, first = span[1] - span[0], span[3] - span[2], span[2]
            its_bias = bias + span[4] * 4 if span[4] >= 0 else 0
            for group in range(groups):
                mine = (span[0] * width + group * shared) * 4
                theirs = (group * stride + first) * dim * 4
                score(q + mine, keys + theirs, num_rows, num_keys, scores)
                weigh(scores, num_rows, num_keys, its_bias, powers)
                blend(scores, values + theirs, num_rows, num_keys, out + mine)

    return compiled(attend, num_arguments=10)


def _score_of(heads: Heads) -> Compiled:
    """Scores (num_rows * sharers, num_keys) of one group's heads."""
    width, sharers, dim, scale = heads.width, heads.sharers, heads.dim, np.float32(heads.dim**-0.5)
    block, tile = scoring_of(dim), _tile(dim)

    def score(q: int, keys: int, num_rows: int, num_keys: int, scores: int) -> None:
        for first in range(0, num_keys, tile):
            keys_here, num_here = floats(keys + first * dim * 4), min(tile, num_keys - first)
            for row in range(num_rows):
                for sharer in range(sharers):
                    query = floats(q + (row * width + sharer * dim) * 4)
                    line = floats(scores + ((row * sharers + sharer) * num_keys + first) * 4)
                    block(query, keys_here, num_here, scale, line)

    return compiled(score, num_arguments=5)


def _weigh_of(sharers: int) -> Compiled:
    """Scores become weights; without a bias it is 0."""

    def weigh(scores: int, num_rows: int, num_keys: int, bias: int, powers: int) -> None:
        for row in range(num_rows):
            more = floats(bias + row * num_keys * 4)
            for sharer in range(sharers):
                line = scores + (row * sharers + sharer) * num_keys * 4
                if bias != 0:
                    biased = floats(line)
                    for key in range(num_keys):
                        biased[key] += more[key]
                softmax(line, num_keys, powers)

    return compiled(weigh, num_arguments=5)


def _blend_of(heads: Heads) -> Compiled:
    """The values of one group's heads by their weights."""
    width, sharers, dim = heads.width, heads.sharers, heads.dim
    block, tile = blending_of(dim), _tile(dim)

    def blend(weights: int, values: int, num_rows: int, num_keys: int, out: int) -> None:
        for row in range(num_rows):
            mixed = floats(out + row * width * 4)
            for i in range(sharers * dim):
                mixed[i] = np.float32(0.0)
        for first in range(0, num_keys, tile):
            values_here, num_here = floats(values + first * dim * 4), min(tile, num_keys - first)
            for row in range(num_rows):
                for sharer in range(sharers):
                    line = floats(weights + ((row * sharers + sharer) * num_keys + first) * 4)
                    mixed = floats(out + (row * width + sharer * dim) * 4)
                    block(line, values_here, num_here, mixed)

    return compiled(blend, num_arguments=5)


def _tile(dim: int) -> int:
    """Keys, or values, that stay in the processor's first cache while all queries meet them."""
    return max(1, _TILE_BYTES // (4 * dim) // TOGETHER) * TOGETHER
