"""Products with a matrix that was packed once into panels, on one CPU thread.

A panel holds sixteen outputs' weights, input by input, so that it streams from memory in the order
it is used. While sixteen weights are in registers they meet up to six rows of the input: the
register block of a GotoBLAS-like kernel (Goto & van de Geijn 2008), with the packing done at load.
So one row is bound by memory, and five or six rows take no longer than one; torch repacks the
weights at every call. float32; compiled by numba, in about a second.

An output is the sum over the inputs in their order, whatever number of rows is multiplied at once:
a row's product does not depend on what it is batched with.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.engine.addresses import Compiled, compiled, floats
from specedge.engine.panel_block import MOST_ROWS, PANEL_OUTPUTS, block_of

Weights = npt.NDArray[np.float32]

# Of the input at a time: they stay in the processor's second cache while the panels pass.
_CHUNK_ROWS: Final = 16 * MOST_ROWS


def packed(weight: Weights) -> Weights:
    """(n, k) weights as (ceil(n / PANEL_OUTPUTS), k, PANEL_OUTPUTS) panels; zeros fill the last."""
    n, k = weight.shape
    filled = np.zeros((-(-n // PANEL_OUTPUTS) * PANEL_OUTPUTS, k), dtype=weight.dtype)
    filled[:n] = weight
    return np.ascontiguousarray(filled.reshape(-1, PANEL_OUTPUTS, k).transpose(0, 2, 1))


def unpacked(panels: Weights, num_outputs: int) -> Weights:
    """The (num_outputs, k) weights that ``packed`` took."""
    rows: Weights = panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])
    return rows[:num_outputs]


@cache
def product() -> Compiled:
    """The compiled product. ``product(x, panels, out, m, k, p)`` puts x (m, k) times p panels'
    weights transposed into out (m, p * PANEL_OUTPUTS). x, panels and out are the addresses of
    C-contiguous arrays, which the caller keeps alive; 0 < m."""
    return compiled(_product_by_panels, num_arguments=6, in_any_order=False)


_block_1, _block_2, _block_3 = block_of(1), block_of(2), block_of(3)
_block_4, _block_5, _block_6 = block_of(4), block_of(5), block_of(6)


def _product_by_panels(
    x_at: int, panels_at: int, out_at: int, num_rows: int, num_inputs: int, num_panels: int
) -> None:
    """Blocks of nearly equal height: one row left over would cost as much as four."""
    x, panels, out = floats(x_at), floats(panels_at), floats(out_at)
    for chunk in range(0, num_rows, _CHUNK_ROWS):
        rows_here = min(_CHUNK_ROWS, num_rows - chunk)
        num_blocks = (rows_here + MOST_ROWS - 1) // MOST_ROWS
        share = PANEL_OUTPUTS // num_blocks
        for panel in range(num_panels):
            row = chunk
            for block in range(num_blocks):
                rows = (rows_here - (row - chunk)) // (num_blocks - block)
                begin = block * share * num_inputs
                if rows == 1:
                    _block_1(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                elif rows == 2:
                    _block_2(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                elif rows == 3:
                    _block_3(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                elif rows == 4:
                    _block_4(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                elif rows == 5:
                    _block_5(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                else:
                    _block_6(panels, x, out, panel, row, num_inputs, num_panels, begin, share)
                row += rows
