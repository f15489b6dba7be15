"""Weights that were quantised in blocks with a scale, found again in a float32 matrix, and packed.

A block is what one output has for BLOCK_INPUTS inputs, and its weights are few bits each:

    4 bits   digit * scale + minimum, digits from 0 to 15      (GGML's Q4_1 and Q4_0)
    8 bits   digit * scale, digits from -128 to 127            (GGML's Q8_0 and Q5_0)

Scale and minimum are float16. A product of a digit and a scale needs no rounding in float32, so one
fused operation gives the very number that the checkpoint's own arithmetic gave. Nothing is rounded
here: a matrix of which one weight is another number is no such matrix. numpy only.

Packed, a panel is its PANEL_OUTPUTS outputs' blocks, BLOCK_INPUTS inputs after the other:

    scale    (PANEL_OUTPUTS,) float16     minimum  (PANEL_OUTPUTS,) float16, of 4 bits only
    digits   of 4 bits: (4, PANEL_OUTPUTS) uint32, eight inputs' in each, the first one's lowest;
             of 8 bits: (BLOCK_INPUTS, PANEL_OUTPUTS) int8
"""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from specedge.engine.panel_layout import PANEL_OUTPUTS, Bytes, Weights, filled, num_panels

Halves = npt.NDArray[np.float16]
Bits = Literal[4, 8]

BLOCK_INPUTS: Final = 32
# Where things begin in a panel's blocks, in bytes, and where the next blocks begin.
SCALE: Final = 0
MINIMUM: Final = 32
DIGITS: Final[dict[Bits, int]] = {4: 64, 8: 32}
BLOCK_BYTES: Final[dict[Bits, int]] = {4: 320, 8: 544}
# Digits of one word, of 4 bits each.
WORD_DIGITS: Final = 8

# So many outputs at a time stay in the cache.
_CHUNK_OUTPUTS: Final = 4 * PANEL_OUTPUTS
_LARGEST_DIGIT: Final = 15


def packed(weight: Weights, bits: Bits) -> Bytes | None:
    """(n, k) weights as (ceil(n / PANEL_OUTPUTS), k / BLOCK_INPUTS) panels' blocks, flat; zeros
    fill the last panel. None where they are not all whole steps of a block's scale."""
    n, k = weight.shape
    if k % BLOCK_INPUTS or not n:
        return None
    shape = num_panels(n), k // BLOCK_INPUTS, BLOCK_BYTES[bits]
    for scales_of in _SCALES[bits]:
        panels = np.zeros(shape, dtype=np.uint8)
        if all(
            _pack(weight[first : first + _CHUNK_OUTPUTS], bits, scales_of, panels, first)
            for first in range(0, n, _CHUNK_OUTPUTS)
        ):
            return panels.reshape(-1)
    return None


def unpacked(panels: Bytes, shape: tuple[int, int], bits: Bits) -> Weights:
    """The weights of that shape that ``packed`` took."""
    n, k = shape
    blocks = panels.reshape(-1, k // BLOCK_INPUTS, BLOCK_BYTES[bits])
    weights = _digits_in(blocks, bits) * _halves_in(blocks, SCALE)
    if bits == 4:
        weights += _halves_in(blocks, MINIMUM)
    whole: Weights = weights.transpose(0, 3, 1, 2).reshape(-1, k)
    return np.ascontiguousarray(whole[:n])


def _pack(weight: Weights, bits: Bits, scales_of: "_Scales", panels: Bytes, first: int) -> bool:
    """Fill the panels from output ``first`` on; whether the weights (m, k) are such blocks."""
    blocks = weight.reshape(len(weight), -1, BLOCK_INPUTS)
    with np.errstate(all="ignore"):  # what is no number, or overflows, is found to be unequal
        scale, minimum = scales_of(blocks)
        steps, least = scale.astype(np.float32)[..., None], minimum.astype(np.float32)[..., None]
        digits = np.rint((blocks - least) * np.where(steps == 0, np.float32(0), 1 / steps))
        if not np.array_equal(digits * steps + least, blocks):
            return False
    lowest, highest = (0, _LARGEST_DIGIT) if bits == 4 else (-128, 127)
    if digits.min() < lowest or digits.max() > highest:
        return False
    _write(panels[first // PANEL_OUTPUTS :], bits, digits, scale, minimum)
    return True


def _write(panels: Bytes, bits: Bits, digits: Weights, scale: Halves, minimum: Halves) -> None:
    """Of m outputs, at the beginning of ``panels``."""
    panels = panels[: num_panels(len(digits))]
    _put(panels, SCALE, _by_panels(scale))
    if bits == 8:
        _put(panels, DIGITS[8], _by_panels(digits.astype(np.int8)).transpose(0, 1, 3, 2))
        return
    _put(panels, MINIMUM, _by_panels(minimum))
    low, high = (digits[..., place::2].astype(np.uint8) for place in (0, 1))
    pairs = _by_panels(low | high << 4)  # (p, g, outputs, 16), four of which are a word
    words = pairs.view(np.uint32)
    _put(panels, DIGITS[4], words.transpose(0, 1, 3, 2))


def _by_panels(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """(m, g, …) as (panels, g, PANEL_OUTPUTS, …)."""
    return np.ascontiguousarray(np.swapaxes(filled(array), 1, 2))


def _put(panels: Bytes, begin: int, array: npt.NDArray[np.generic]) -> None:
    flat = np.ascontiguousarray(array).reshape(*panels.shape[:2], -1).view(np.uint8)
    panels[..., begin : begin + flat.shape[-1]] = flat


def _halves_in(blocks: Bytes, begin: int) -> Weights:
    """(p, g, 1, PANEL_OUTPUTS)."""
    halves = np.ascontiguousarray(blocks[..., begin : begin + 2 * PANEL_OUTPUTS])
    return halves.view(np.float16).astype(np.float32)[:, :, None]


def _digits_in(blocks: Bytes, bits: Bits) -> Weights:
    """(p, g, BLOCK_INPUTS, PANEL_OUTPUTS)."""
    stored = np.ascontiguousarray(blocks[..., DIGITS[bits] :])
    lines = *stored.shape[:2], -1, PANEL_OUTPUTS
    if bits == 8:
        return stored.view(np.int8).reshape(lines).astype(np.float32)
    words = stored.view(np.uint32).reshape(lines)
    digits = [words >> np.uint32(4 * place) & np.uint32(15) for place in range(WORD_DIGITS)]
    in_order = np.stack(digits, axis=3)
    return in_order.reshape(lines).astype(np.float32)


# From blocks (m, g, BLOCK_INPUTS) to what their scale and minimum (m, g) must have been.
_Scales = Callable[[Weights], tuple[Halves, Halves]]


def _from_ends(blocks: Weights) -> tuple[Halves, Halves]:
    """The lowest weight is digit 0, the highest the largest one."""
    least, most = blocks.min(axis=2), blocks.max(axis=2)
    scale = (most - least) / np.float32(_LARGEST_DIGIT)
    return scale.astype(np.float16), least.astype(np.float16)


def _from_extreme(steps: int, *, is_minimum: bool) -> _Scales:
    """The weight that is farthest from 0 is so many steps from there, downwards if negative."""

    def scales(blocks: Weights) -> tuple[Halves, Halves]:
        place = np.abs(blocks).argmax(axis=2)[..., None]
        extreme = np.take_along_axis(blocks, place, axis=2)[..., 0]
        scale = (extreme / np.float32(steps)).astype(np.float16)
        minimum = extreme if is_minimum else np.zeros_like(extreme)
        return scale, minimum.astype(np.float16)

    return scales


_SCALES: Final[dict[Bits, tuple[_Scales, ...]]] = {
    4: (_from_ends, _from_extreme(-8, is_minimum=True)),
    8: (_from_extreme(127, is_minimum=False), _from_extreme(-16, is_minimum=False)),
}
