"""A whole pass of a small decoder over a few rows, compiled: for drafters on one CPU thread.

A pass of a few rows by way of modules is a thousand operations of a few microseconds each, and its
arithmetic a third of its time. Here it is one call. The decoder is of the usual kind: RMS norms
before attention and before the feed-forward part, grouped heads, rotary positions by halves, SiLU
gates, linear layers without bias in int8 (``integer_panels``). Compiled by numba; knows nothing of
torch.
"""

from functools import cache
from typing import Final

from specedge.engine.addresses import Compiled, compiled, longs
from specedge.engine.attention_kernel import Heads, attention_of
from specedge.engine.integer_panels import product, rounding
from specedge.engine.panel_block import PANEL_OUTPUTS
from specedge.engine.row_kernels import adding, gating, normalising, rotating, writing

# Columns of the table of a layer's addresses; a matrix has two, its panels' and its scale's.
NORM, Q, K, V, OUT, SECOND_NORM, GATE, UP, DOWN, KEYS, VALUES = 0, 1, 3, 5, 7, 9, 10, 12, 14, 16, 17
NUM_ADDRESSES: Final = 18

# What a step tells, int64 each: sizes, addresses of arrays, addresses of scratch.
(
    ROWS, HIDDEN, INNER, STRIDE, EPS, COSINE, SINE, X, POSITIONS, ARENA_ROWS, SPANS, NUM_SPANS,
    BIAS, NORMED, MIXED, QUERIES, NEW_KEYS, NEW_VALUES, GATES, UPS, ROUNDED, ROW_SCALE, SCORES,
    POWERS,
) = range(24)  # fmt: skip
NUM_IN_STEP: Final = 24


@cache
def layers_of(heads: Heads) -> Compiled:
    """``layers(table, num_layers, step)``: x becomes what the last layer leaves; K and V of its
    rows are written. ``table`` is (num_layers, NUM_ADDRESSES) int64, ``step`` (NUM_IN_STEP,)
    int64:

    ROWS, HIDDEN, INNER    m rows, of so many numbers, and so many inside the feed-forward part
    STRIDE                 rows of a plane of K or V, (groups, stride, dim) float32
    EPS                    (1,) float32, of all norms
    COSINE, SINE           (positions, dim) float32
    X                      (m, hidden) float32
    POSITIONS, ARENA_ROWS  (m,) int64; where each row's K and V go
    SPANS, NUM_SPANS, BIAS, SCORES, POWERS                    see ``attention_of``
    NORMED, MIXED, QUERIES, NEW_KEYS, NEW_VALUES, GATES, UPS  scratch, (m, …) float32
    ROUNDED, ROW_SCALE     scratch, (m, widest) int16 and (m,) float32
    POWERS                 scratch, also 2 * inner float32
    """
    attention, feed_forward, width = _attention_of(heads), _feed_forward_part(), heads.width
    normalise, add, round_rows, multiply = normalising(), adding(), rounding(), product()

    def layers(table_address: int, num_layers: int, step_address: int) -> None:
        step = longs(step_address)
        rows, hidden, x, normed = step[ROWS], step[HIDDEN], step[X], step[NORMED]
        rounded, scale, out = step[ROUNDED], step[ROW_SCALE], hidden // PANEL_OUTPUTS
        for layer in range(num_layers):
            row = table_address + layer * NUM_ADDRESSES * 8
            table = longs(row)
            normalise(x, table[NORM], step[EPS], normed, rows, hidden)
            attention(row, step_address)
            round_rows(step[MIXED], rounded, scale, rows, width)
            multiply(table[OUT], table[OUT + 1], rounded, scale, normed, rows, width, out)
            add(x, normed, rows * hidden)
            normalise(x, table[SECOND_NORM], step[EPS], normed, rows, hidden)
            feed_forward(row, step_address)
            add(x, normed, rows * hidden)

    return compiled(layers, num_arguments=3)


def _attention_of(heads: Heads) -> Compiled:
    """MIXED of NORMED, for a row of the table."""
    attend, rotate, write = attention_of(heads), rotating(), writing()
    round_rows, multiply = rounding(), product()
    width, key_width, dim = heads.width, heads.key_width, heads.dim
    panels, key_panels = width // PANEL_OUTPUTS, key_width // PANEL_OUTPUTS

    def attention(row: int, step_address: int) -> None:
        step, table = longs(step_address), longs(row)
        rows, hidden, x, scale = step[ROWS], step[HIDDEN], step[ROUNDED], step[ROW_SCALE]
        q, k, v, positions = step[QUERIES], step[NEW_KEYS], step[NEW_VALUES], step[POSITIONS]
        round_rows(step[NORMED], x, scale, rows, hidden)
        multiply(table[Q], table[Q + 1], x, scale, q, rows, hidden, panels)
        multiply(table[K], table[K + 1], x, scale, k, rows, hidden, key_panels)
        multiply(table[V], table[V + 1], x, scale, v, rows, hidden, key_panels)
        rotate(q, step[COSINE], step[SINE], positions, rows, width, dim)
        rotate(k, step[COSINE], step[SINE], positions, rows, key_width, dim)
        write(k, table[KEYS], step[ARENA_ROWS], rows, key_width, dim, step[STRIDE])
        write(v, table[VALUES], step[ARENA_ROWS], rows, key_width, dim, step[STRIDE])
        attend(
            q, table[KEYS], table[VALUES], step[STRIDE], step[SPANS], step[NUM_SPANS], step[BIAS],
            step[SCORES], step[POWERS], step[MIXED],
        )  # fmt: skip

    return compiled(attention, num_arguments=2)


@cache
def _feed_forward_part() -> Compiled:
    """NORMED, in place, for a row of the table."""
    gate, round_rows, multiply = gating(), rounding(), product()

    def feed_forward(row: int, step_address: int) -> None:
        step, table = longs(step_address), longs(row)
        rows, hidden, inner, normed = step[ROWS], step[HIDDEN], step[INNER], step[NORMED]
        x, scale, gates, ups = step[ROUNDED], step[ROW_SCALE], step[GATES], step[UPS]
        panels = inner // PANEL_OUTPUTS
        round_rows(normed, x, scale, rows, hidden)
        multiply(table[GATE], table[GATE + 1], x, scale, gates, rows, hidden, panels)
        multiply(table[UP], table[UP + 1], x, scale, ups, rows, hidden, panels)
        gate(gates, ups, step[POWERS], rows, inner)
        round_rows(gates, x, scale, rows, inner)
        out = hidden // PANEL_OUTPUTS
        multiply(table[DOWN], table[DOWN + 1], x, scale, normed, rows, inner, out)

    return compiled(feed_forward, num_arguments=2)
