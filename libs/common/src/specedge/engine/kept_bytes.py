"""Float32 weights of which only as many bytes are kept as are not zero in all of a matrix: of one
that was stored in bf16 two, of many a quantised one three. Nothing is rounded; numpy only."""

import sys
from typing import Final

import numpy as np

from specedge.engine.panel_layout import PANEL_OUTPUTS, Bytes, Weights, filled

FLOAT_BYTES: Final = 4
FEWEST_BYTES: Final = 2
# What the last panel's weights may be read beyond their end, since vectors are filled whole.
BYTES_READ_BEYOND: Final = 32


def bytes_needed(weight: Weights) -> int:
    """Of each weight, to hold all of them exactly: the upper 2, 3 or 4."""
    if sys.byteorder != "little":
        return FLOAT_BYTES
    used = int(np.bitwise_or.reduce(weight.view(np.uint32), axis=None))
    num_unused = 0
    while num_unused < FLOAT_BYTES - FEWEST_BYTES and not used >> 8 * num_unused & 0xFF:
        num_unused += 1
    return FLOAT_BYTES - num_unused


def packed(weight: Weights, kept: int) -> Bytes:
    """(n, k) weights as (panels, k, PANEL_OUTPUTS, kept) bytes, flat, and BYTES_READ_BEYOND more;
    zeros fill the last panel."""
    in_order = np.ascontiguousarray(filled(weight).transpose(0, 2, 1))
    all_bytes = in_order.view(np.uint8).reshape(-1)
    panels = np.zeros(in_order.size * kept + BYTES_READ_BEYOND, dtype=np.uint8)
    weights, dropped = panels[:-BYTES_READ_BEYOND], FLOAT_BYTES - kept
    for byte in range(kept):
        weights[byte::kept] = all_bytes[dropped + byte :: FLOAT_BYTES]
    return panels


def unpacked(panels: Bytes, shape: tuple[int, int], kept: int) -> Weights:
    """The weights of that shape that ``packed`` took."""
    n, k = shape
    whole = panels[:-BYTES_READ_BEYOND].reshape(-1, k, PANEL_OUTPUTS, kept)
    in_bytes = np.zeros((len(whole), PANEL_OUTPUTS, k, FLOAT_BYTES), dtype=np.uint8)
    in_bytes[..., FLOAT_BYTES - kept :] = whole.transpose(0, 2, 1, 3)
    rows: Weights = in_bytes.view(np.float32).reshape(-1, k)
    return rows[:n]
