"""In which form a matrix' float32 weights are held: in as few bits as hold all of them exactly."""

from enum import IntEnum
from typing import Final

from specedge.engine import kept_bytes, quantised_blocks
from specedge.engine.panel_layout import PANEL_OUTPUTS, Bytes, Weights
from specedge.engine.weight_readers import Digits4, Digits8, Reader, UpperBytes, widens_halves


class WeightForm(IntEnum):
    """Of all weights of a matrix; numbers, since compiled code is told them."""

    UPPER_TWO_BYTES = 2
    UPPER_THREE_BYTES = 3
    WHOLE = 4
    BLOCKS_OF_4_BITS = 104
    BLOCKS_OF_8_BITS = 108


READERS: Final[dict[WeightForm, Reader]] = {
    WeightForm.UPPER_TWO_BYTES: UpperBytes(2),
    WeightForm.UPPER_THREE_BYTES: UpperBytes(3),
    WeightForm.WHOLE: UpperBytes(4),
    WeightForm.BLOCKS_OF_4_BITS: Digits4(),
    WeightForm.BLOCKS_OF_8_BITS: Digits8(),
}
_BITS: Final[dict[WeightForm, quantised_blocks.Bits]] = {
    WeightForm.BLOCKS_OF_4_BITS: 4,
    WeightForm.BLOCKS_OF_8_BITS: 8,
}


def packed(weight: Weights, *, whole: bool = False) -> tuple[Bytes, WeightForm]:
    """(n, k) weights in panels, flat, and the form that they have there: the one of the fewest
    bits, or ``whole``."""
    if whole:
        return kept_bytes.packed(weight, WeightForm.WHOLE), WeightForm.WHOLE
    # Two panels are met at once.
    if widens_halves() and len(weight) > PANEL_OUTPUTS:
        for form, bits in _BITS.items():
            panels = quantised_blocks.packed(weight, bits)
            if panels is not None:
                return panels, form
    kept = kept_bytes.bytes_needed(weight)
    return kept_bytes.packed(weight, kept), WeightForm(kept)


def unpacked(panels: Bytes, shape: tuple[int, int], form: WeightForm) -> Weights:
    """The weights of that shape that ``packed`` took."""
    bits = _BITS.get(form)
    if bits is None:
        return kept_bytes.unpacked(panels, shape, int(form))
    return quantised_blocks.unpacked(panels, shape, bits)
