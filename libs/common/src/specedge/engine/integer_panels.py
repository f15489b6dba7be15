"""Products with an int8 matrix that was packed once into panels, in integers, on one CPU thread.

As ``panels``, with the inputs rounded too: every row to thirteen bits or more by a scale of its
own, so that an outlier among the inputs leaves the others more bits than the weights have. A
product of a few rows takes half to two thirds of float32's time. Compiled by numba, in a second.

Arrays are told by their addresses, which must be of C-contiguous ones that the caller keeps alive.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.engine.addresses import Compiled, compiled, floats, octets, shorts, words
from specedge.engine.integer_block import block_of
from specedge.engine.panel_layout import PANEL_OUTPUTS, num_panels

_INFINITE: Final = np.uint32(0x7F800000)
_NO_NUMBER: Final = np.uint32(0x7FC00000)
_MOST_ROWS: Final = 6
_CHUNK_ROWS: Final = 16 * _MOST_ROWS
_block_1, _block_2, _block_3 = block_of(1), block_of(2), block_of(3)
_block_4, _block_5, _block_6 = block_of(4), block_of(5), block_of(6)


def packed(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """(n, k) weights as (ceil(n / PANEL_OUTPUTS), ceil(k / 2), PANEL_OUTPUTS, 2) panels; zeros
    fill what is left."""
    n, k = weight.shape
    panels, pairs = num_panels(n), -(-k // 2)
    filled = np.zeros((panels * PANEL_OUTPUTS, pairs * 2), dtype=np.int8)
    filled[:n, :k] = weight
    shaped = filled.reshape(panels, PANEL_OUTPUTS, pairs, 2)
    return np.ascontiguousarray(shaped.transpose(0, 2, 1, 3))


def unpacked(panels: npt.NDArray[np.int8], shape: tuple[int, int]) -> npt.NDArray[np.int8]:
    """The weights of that shape that ``packed`` took."""
    n, k = shape
    rows = panels.transpose(0, 2, 1, 3).reshape(-1, panels.shape[1] * 2)
    return np.ascontiguousarray(rows[:n, :k])


@cache
def rounding() -> Compiled:
    """``round(x, rounded, row_scale, m, k)`` puts x (m, k) float32 into rounded (m, k + k % 2)
    int16, times row_scale (m,) float32."""
    return compiled(_round_rows, num_arguments=5)


@cache
def product() -> Compiled:
    """``multiply(panels, scale, rounded, row_scale, out, m, k, p, first, last)`` puts what
    ``round`` gave, times the weights of p panels transposed, of those from number ``first`` up to
    ``last``, times scale (p * PANEL_OUTPUTS,) float32, into out (m, p * PANEL_OUTPUTS) float32.
    Several threads may compute some panels each."""
    return compiled(_multiply, num_arguments=10)


def _round_rows(x: int, rounded: int, row_scale: int, num_rows: int, num_inputs: int) -> None:
    """The largest of a row becomes as much as no sum of so many products can carry beyond int32. A
    row with what is no number, or infinite, has no products that are numbers."""
    most = np.float32(min(32767, 2147483647 // (127 * num_inputs)))
    even = num_inputs + num_inputs % 2
    scales, scale_bits = floats(row_scale), words(row_scale)
    for row in range(num_rows):
        inputs, bits = floats(x + row * num_inputs * 4), words(x + row * num_inputs * 4)
        outputs = shorts(rounded + row * even * 2)
        # Without their sign, bits are in the numbers' order, and those of no number are highest.
        highest = np.uint32(0)
        for i in range(num_inputs):
            highest = max(highest, bits[i] & np.uint32(0x7FFFFFFF))
        scale_bits[row] = highest
        largest = max(scales[row], np.float32(1e-30))
        if highest >= _INFINITE:
            largest = most
            scale_bits[row] = _NO_NUMBER
        else:
            scales[row] = largest / most
        per_unit = most / largest
        for i in range(num_inputs):
            outputs[i] = np.int16(np.rint(inputs[i] * per_unit))
        if even > num_inputs:
            outputs[num_inputs] = 0


def _multiply(  # noqa: PLR0913
    panel_address: int, scale_address: int, rounded: int, row_scale: int, out_address: int,
    num_rows: int, num_inputs: int, num_panels: int, first: int, last: int,
) -> None:  # fmt: skip
    """Blocks of nearly equal height: one row left over would cost as much as four."""
    panels, scale, out = octets(panel_address), floats(scale_address), floats(out_address)
    x, x_scale, pairs = shorts(rounded), floats(row_scale), (num_inputs + 1) // 2
    for chunk in range(0, num_rows, _CHUNK_ROWS):
        rows_here = min(_CHUNK_ROWS, num_rows - chunk)
        num_blocks = (rows_here + _MOST_ROWS - 1) // _MOST_ROWS
        share = 2 * PANEL_OUTPUTS // num_blocks
        for panel in range(first, last):
            row = chunk
            for block in range(num_blocks):
                rows = (rows_here - (row - chunk)) // (num_blocks - block)
                begin = block * share * pairs
                if rows == 1:
                    _block_1(
                        panels, x, x_scale, scale, out, panel, row, pairs, num_panels, begin, share
                    )
                elif rows == 2:
                    _block_2(
                        panels, x, x_scale, scale, out, panel, row, pairs, num_panels, begin, share
                    )
                elif rows == 3:
                    _block_3(
                        panels, x, x_scale, scale, out, panel, row, pairs, num_panels, begin, share
                    )
                elif rows == 4:
                    _block_4(
                        panels, x, x_scale, scale, out, panel, row, pairs, num_panels, begin, share
                    )
                elif rows == 5:
                    _block_5(
                        panels, x, x_scale, scale, out, panel, row, pairs, num_panels, begin, share
                    )
                else:
                    _block_6(
                        panels, x, x_scale, scale, out, panel, row, pairs, num_panels, begin, share
                    )
                row += rows
