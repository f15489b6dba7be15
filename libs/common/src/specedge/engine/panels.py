"""Products with a matrix that was packed once into panels, on one CPU thread.

A panel holds sixteen outputs' weights, input by input, so that it streams from memory in the order
it is used. While sixteen weights are in registers they meet up to six rows of the input: the
register block of a GotoBLAS-like kernel (Goto & van de Geijn 2008), with the packing done at load.
So one row is bound by memory, and five or six rows take no longer than one; torch repacks the
weights at every call. float32; compiled by numba, in about a second.

Of each weight only as many bytes are kept as are not zero in all of them: of a matrix that was
stored in bf16 two, of many a quantised one three. Nothing is rounded.

An output is the sum over the inputs in their order, whatever number of rows is multiplied at once:
a row's product does not depend on what it is batched with.
"""

import sys
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.engine.addresses import Compiled, compiled, floats, octets
from specedge.engine.panel_block import (
    BYTES_READ_BEYOND,
    FLOAT_BYTES,
    MOST_ROWS,
    PANEL_OUTPUTS,
    block_of,
)

Weights = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

FEWEST_BYTES: Final = 2
# Of the input at a time: they stay in the processor's second cache while the panels pass.
_CHUNK_ROWS: Final = 16 * MOST_ROWS


def bytes_needed(weight: Weights) -> int:
    """Of each weight, to hold all of them exactly: the upper 2, 3 or 4."""
    if sys.byteorder != "little":
        return FLOAT_BYTES
    used = int(np.bitwise_or.reduce(weight.view(np.uint32), axis=None))
    num_unused = 0
    while num_unused < FLOAT_BYTES - FEWEST_BYTES and not used >> 8 * num_unused & 0xFF:
        num_unused += 1
    return FLOAT_BYTES - num_unused


def packed(weight: Weights, weight_bytes: int) -> Bytes:
    """(n, k) weights as (ceil(n / PANEL_OUTPUTS), k, PANEL_OUTPUTS, weight_bytes) panels, flat, and
    BYTES_READ_BEYOND more; zeros fill the last panel."""
    n, k = weight.shape
    filled = np.zeros((-(-n // PANEL_OUTPUTS) * PANEL_OUTPUTS, k), dtype=np.float32)
    filled[:n] = weight
    in_order = np.ascontiguousarray(filled.reshape(-1, PANEL_OUTPUTS, k).transpose(0, 2, 1))
    all_bytes = in_order.view(np.uint8).reshape(-1)
    panels = np.zeros(filled.size * weight_bytes + BYTES_READ_BEYOND, dtype=np.uint8)
    weights, dropped = panels[:-BYTES_READ_BEYOND], FLOAT_BYTES - weight_bytes
    for byte in range(weight_bytes):
        weights[byte::weight_bytes] = all_bytes[dropped + byte :: FLOAT_BYTES]
    return panels


def unpacked(panels: Bytes, shape: tuple[int, int], weight_bytes: int) -> Weights:
    """The weights of that shape that ``packed`` took."""
    n, k = shape
    whole = panels[:-BYTES_READ_BEYOND].reshape(-1, k, PANEL_OUTPUTS, weight_bytes)
    in_bytes = np.zeros((len(whole), PANEL_OUTPUTS, k, FLOAT_BYTES), dtype=np.uint8)
    in_bytes[..., FLOAT_BYTES - weight_bytes :] = whole.transpose(0, 2, 1, 3)
    rows: Weights = in_bytes.view(np.float32).reshape(-1, k)
    return rows[:n]


@cache
def product(weight_bytes: int) -> Compiled:
    """The compiled product. ``product(x, panels, out, m, k, p)`` puts x (m, k) times p panels'
    weights transposed into out (m, p * PANEL_OUTPUTS). x, panels and out are the addresses of
    C-contiguous arrays, which the caller keeps alive; 0 < m."""
    block_1, block_2, block_3, block_4, block_5, block_6 = (
        block_of(num_rows, weight_bytes) for num_rows in range(1, MOST_ROWS + 1)
    )

    def by_panels(
        x_at: int, panels_at: int, out_at: int, num_rows: int, num_inputs: int, num_panels: int
    ) -> None:
        """Blocks of nearly equal height: one row left over would cost as much as four."""
        x, panels, out = floats(x_at), octets(panels_at), floats(out_at)
        for chunk in range(0, num_rows, _CHUNK_ROWS):
            rows_here = min(_CHUNK_ROWS, num_rows - chunk)
            num_blocks = (rows_here + MOST_ROWS - 1) // MOST_ROWS
            share = PANEL_OUTPUTS * weight_bytes // num_blocks
            for panel in range(num_panels):
                row = chunk
                for block in range(num_blocks):
                    rows = (rows_here - (row - chunk)) // (num_blocks - block)
                    begin = block * share * num_inputs
                    if rows == 1:
                        block_1(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                    elif rows == 2:
                        block_2(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                    elif rows == 3:
                        block_3(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                    elif rows == 4:
                        block_4(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                    elif rows == 5:
                        block_5(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                    else:
                        block_6(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                    row += rows

    return compiled(by_panels, num_arguments=6, in_any_order=False)
