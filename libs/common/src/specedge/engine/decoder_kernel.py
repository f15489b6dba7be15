"""A whole pass of a decoder over a few rows, compiled: for small models on one CPU thread.

By way of modules each layer is some forty operations of a few microseconds each, of which its
products are seven. Here the pass is one call. The decoder is of the usual kind: RMS norms before
attention and before the feed-forward part, grouped heads, rotary positions by halves, SiLU gates,
linear layers without bias, all in int8 or all in float32. Compiled by numba; knows nothing of
torch.
"""

from functools import cache
from typing import Final

from specedge.engine.addresses import Compiled, compiled, longs
from specedge.engine.attention_kernel import Heads, attention_of
from specedge.engine.matrix_products import MatrixProducts
from specedge.engine.panel_layout import PANEL_OUTPUTS
from specedge.engine.row_kernels import adding, gating, normalising, rotating, writing

# Columns of the table of a layer's addresses; a matrix has two, its panels' and its form.
NORM, Q, K, V, OUT, SECOND_NORM, GATE, UP, DOWN, KEYS, VALUES = 0, 1, 3, 5, 7, 9, 10, 12, 14, 16, 17
MATRICES: Final = (Q, K, V, OUT, GATE, UP, DOWN)
NUM_ADDRESSES: Final = 18

# What a step tells, int64 each: sizes, addresses of arrays, addresses of scratch.
(
    ROWS, HIDDEN, INNER, STRIDE, EPS, COSINE, SINE, X, POSITIONS, ARENA_ROWS, SPANS, NUM_SPANS,
    BIAS, NORMED, MIXED, QUERIES, NEW_KEYS, NEW_VALUES, GATES, UPS, ROUNDED, ROW_SCALE, SCORES,
    POWERS,
) = range(24)  # fmt: skip
NUM_IN_STEP: Final = 24


@cache
def layers_of(heads: Heads, matrices: MatrixProducts) -> Compiled:
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
    attention, feed_forward = _attention_of(heads, matrices), _feed_forward_part(matrices)
    normalise, add, width = normalising(), adding(), heads.width
    prepare, multiply = matrices.prepare, matrices.multiply

    def layers(table_address: int, num_layers: int, step_address: int) -> None:
        step = longs(step_address)
        rows, hidden, x, normed = step[ROWS], step[HIDDEN], step[X], step[NORMED]
        rounded, scale, out = step[ROUNDED], step[ROW_SCALE], hidden // PANEL_OUTPUTS
        mixed = step[MIXED]
        for layer in range(num_layers):
            row = table_address + layer * NUM_ADDRESSES * 8
            table = longs(row)
            normalise(x, table[NORM], step[EPS], normed, rows, hidden)
            attention(row, step_address)
            prepare(mixed, rounded, scale, rows, width)
            multiply(table[OUT], table[OUT + 1], mixed, rounded, scale, normed, rows, width, out)
            add(x, normed, rows * hidden)
            normalise(x, table[SECOND_NORM], step[EPS], normed, rows, hidden)
            feed_forward(row, step_address)
            add(x, normed, rows * hidden)

    return compiled(layers, num_arguments=3)


def _attention_of(heads: Heads, matrices: MatrixProducts) -> Compiled:
    """MIXED of NORMED, for a row of the table."""
    attend, rotate, write = attention_of(heads), rotating(), writing()
    prepare, multiply = matrices.prepare, matrices.multiply
    width, key_width, dim = heads.width, heads.key_width, heads.dim
    panels, key_panels = width // PANEL_OUTPUTS, key_width // PANEL_OUTPUTS

    def attention(row: int, step_address: int) -> None:
        step, table = longs(step_address), longs(row)
        rows, hidden, x = step[ROWS], step[HIDDEN], step[NORMED]
        rounded, scale = step[ROUNDED], step[ROW_SCALE]
        q, k, v, positions = step[QUERIES], step[NEW_KEYS], step[NEW_VALUES], step[POSITIONS]
        prepare(x, rounded, scale, rows, hidden)
        multiply(table[Q], table[Q + 1], x, rounded, scale, q, rows, hidden, panels)
        multiply(table[K], table[K + 1], x, rounded, scale, k, rows, hidden, key_panels)
        multiply(table[V], table[V + 1], x, rounded, scale, v, rows, hidden, key_panels)
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
def _feed_forward_part(matrices: MatrixProducts) -> Compiled:
    """NORMED, in place, for a row of the table."""
    gate, prepare, multiply = gating(), matrices.prepare, matrices.multiply

    def feed_forward(row: int, step_address: int) -> None:
        step, table = longs(step_address), longs(row)
        rows, hidden, inner, x = step[ROWS], step[HIDDEN], step[INNER], step[NORMED]
        rounded, scale, gates, ups = step[ROUNDED], step[ROW_SCALE], step[GATES], step[UPS]
        panels, out = inner // PANEL_OUTPUTS, hidden // PANEL_OUTPUTS
        prepare(x, rounded, scale, rows, hidden)
        multiply(table[GATE], table[GATE + 1], x, rounded, scale, gates, rows, hidden, panels)
        multiply(table[UP], table[UP + 1], x, rounded, scale, ups, rows, hidden, panels)
        gate(gates, ups, step[POWERS], rows, inner)
        prepare(gates, rounded, scale, rows, inner)
        multiply(table[DOWN], table[DOWN + 1], gates, rounded, scale, x, rows, inner, out)

    return compiled(feed_forward, num_arguments=2)
