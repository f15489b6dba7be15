"""Products with a float32 matrix that was packed once into panels, on one CPU thread.

A panel holds sixteen outputs' weights, input by input, so that it streams from memory in the order
it is used. While sixteen weights are in registers they meet several rows of the input: the register
block of a GotoBLAS-like kernel (Goto & van de Geijn 2008), with the packing done at load. So one
row is bound by memory, and five or six rows take little longer than one; torch repacks the weights
at every call. Compiled by numba, in about a second.

Weights are held in as few bits as hold them exactly (``weight_forms``), and are float32 again when
they are met.

An output is the sum over the inputs in their order, whatever number of rows is multiplied at once:
a row's product does not depend on what it is batched with.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from specedge.engine.addresses import Compiled, compiled, floats, octets
from specedge.engine.kept_bytes import FLOAT_BYTES
from specedge.engine.panel_block import BlockShape, block_of
from specedge.engine.panel_expansion import expansion_of
from specedge.engine.panel_layout import PANEL_OUTPUTS
from specedge.engine.weight_forms import READERS, WeightForm
from specedge.engine.weight_readers import LANES, Reader, UpperBytes

# Of the input at a time: they stay in the processor's second cache while the panels pass.
_CHUNK_ROWS: Final = 96
# Twelve sums, two vectors of weights and an input fill the sixteen registers of AVX2.
_OF_FLOATS: Final = BlockShape(most_rows=6, together=1, fetched_rows=3)
# What is held in blocks comes sooner than sums follow one another, and is more work: where there
# are thirty-two registers, two panels' sums are under way, and more rows share the work.
_OF_BLOCKS: Final = (
    BlockShape(most_rows=10, together=2, fetched_rows=1)
    if LANES == 16
    else BlockShape(most_rows=6, together=1, fetched_rows=1)
)
# From so many rows on, three blocks of them, a panel in blocks is worth being made whole first. Not
# where there are thirty-two registers: two whole panels have no room in the first cache.
MANY_ROWS: Final = 13


@cache
def product(form: WeightForm) -> Compiled:
    """The compiled product. ``product(x, panels, out, m, k, p, first, last)`` puts x (m, k) times
    the weights of p panels transposed, of those from number ``first`` up to ``last``, into out
    (m, p * PANEL_OUTPUTS). x, panels and out are the addresses of C-contiguous arrays, which the
    caller keeps alive; 0 < m. Several threads may compute some panels each."""
    reader = READERS[form]
    by_panels = _few_rows(reader, _OF_FLOATS if reader.group_inputs == 1 else _OF_BLOCKS)
    return compiled(by_panels, num_arguments=8, in_any_order=False)


@cache
def product_of_many(form: WeightForm) -> Compiled:
    """As ``product``, to the same bits, and the quicker one from MANY_ROWS rows on."""
    reader = READERS[form]
    if reader.group_inputs == 1 or _OF_BLOCKS.together > 1:
        return product(form)
    return compiled(_many_rows(reader, _OF_BLOCKS), num_arguments=8, in_any_order=False)


def _few_rows(reader: Reader, shape: BlockShape) -> Callable[..., None]:
    """Weights are made float32 by each block of rows that meets them."""
    block, most_rows, together = block_of(reader, shape), shape.most_rows, shape.together
    group_inputs, group_bytes = reader.group_inputs, reader.group_bytes

    def few_rows(  # noqa: PLR0913
        x_at: int, panels_at: int, out_at: int, num_rows: int, num_inputs: int, num_panels: int,
        first: int, last: int,
    ) -> None:  # fmt: skip
        """Blocks of nearly equal height: one row left over would cost as much as four."""
        x, panels, out = floats(x_at), octets(panels_at), floats(out_at)
        for chunk in range(0, num_rows, _CHUNK_ROWS):
            rows_here = min(_CHUNK_ROWS, num_rows - chunk)
            num_blocks = (rows_here + most_rows - 1) // most_rows
            share = (group_bytes + num_blocks - 1) // num_blocks
            for number in range(first, last, together):
                panel = min(number, num_panels - together)  # some once more where they are odd
                row = chunk
                for place in range(num_blocks):
                    rows = (rows_here - (row - chunk)) // (num_blocks - place)
                    begin = place * share * (num_inputs // group_inputs)
                    block(panels, x, out, panel, row, rows, num_inputs, num_panels, begin, share)
                    row += rows

    return few_rows


def _many_rows(reader: Reader, shape: BlockShape) -> Callable[..., None]:
    """Weights are made float32 once, for all rows of a chunk."""
    together, most_rows = shape.together, shape.most_rows
    expand = expansion_of(reader, together)
    # What was just written needs no fetching.
    block = block_of(UpperBytes(FLOAT_BYTES), replace(shape, fetched_rows=most_rows + 1))

    def many_rows(  # noqa: PLR0913
        x_at: int, panels_at: int, out_at: int, num_rows: int, num_inputs: int, num_panels: int,
        first: int, last: int,
    ) -> None:  # fmt: skip
        x, panels, out = floats(x_at), octets(panels_at), floats(out_at)
        panel_size = num_inputs * PANEL_OUTPUTS
        scratch = np.empty(together * panel_size, dtype=np.float32)
        whole = scratch.ctypes.data
        for chunk in range(0, num_rows, _CHUNK_ROWS):
            rows_here = min(_CHUNK_ROWS, num_rows - chunk)
            num_blocks = (rows_here + most_rows - 1) // most_rows
            for number in range(first, last, together):
                panel = min(number, num_panels - together)
                expand(panels, panel, num_inputs, floats(whole))
                # Where the first panel would begin, were all of them there.
                of_all = octets(whole - panel * panel_size * FLOAT_BYTES)
                row = chunk
                for place in range(num_blocks):
                    rows = (rows_here - (row - chunk)) // (num_blocks - place)
                    block(of_all, x, out, panel, row, rows, num_inputs, num_panels, 0, 0)
                    row += rows
        scratch[0] = 0.0  # it lives until here

    return many_rows
