"""The innermost block of a product by panels, as LLVM instructions: some rows times one panel.

Written out because a compiler given the loops keeps the sums in memory, or transposes: here they
are in registers, sixteen outputs for each row. Portable: LLVM lowers the vectors to what the
processor has. Knows numba and nothing of torch.

A weight is a float32 of which only the upper bytes are kept, where the others are zero: the bytes
are put in their places as they are met, which is less work than waiting for more of them.
"""

from typing import Any, Final

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from specedge.engine.vector_code import INT8, everywhere, fetch, fused, numbers, zeros

PANEL_OUTPUTS: Final = 16
# Twelve sums, two vectors of weights and an input fill the sixteen registers of AVX2.
MOST_ROWS: Final = 6
FLOAT_BYTES: Final = 4

_FLOAT: Final = ir.FloatType()
# Rows from which on the next panel is fetched by hand: below, memory is waited for anyway. Where
# several blocks of rows meet a panel, each fetches its share, so that memory is read all the while:
# of 7 to 12 rows a product takes 0.80 to 0.86 of the time, of 18 and 24 0.88.
_FETCHED_ROWS: Final = 3
# What the last panel's weights may be read beyond their end, since vectors are filled whole.
BYTES_READ_BEYOND: Final = 32


def _lanes() -> int:
    """Of a vector. Sixteen where one instruction moves all its bytes; two of eight are as quick
    elsewhere, and AVX2 has no longer ones."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # not told on this platform
        return 8
    return 16 if features.get("avx512vbmi") else 8


_LANES: Final = _lanes()
_PARTS: Final = PANEL_OUTPUTS // _LANES
_VECTOR: Final = ir.VectorType(_FLOAT, _LANES)


def block_of(num_rows: int, weight_bytes: int) -> Any:
    """A function for compiled code: ``block(panels, x, out, panel, row, num_inputs, num_panels,
    begin, share)``.

    It puts the products of ``num_rows`` rows of x (m, num_inputs), from ``row`` on, with panel
    number ``panel``, whose weights have ``weight_bytes`` each, into out (m, num_panels *
    PANEL_OUTPUTS). Of the next panel it fetches, from byte ``begin`` on, ``share`` bytes for every
    input. The arrays are pointers, to bytes and to C-ordered float32; the bounds are the caller's
    care, and BYTES_READ_BEYOND the last panel.
    """

    @intrinsic
    def block(  # noqa: PLR0913
        _: Any, panels: Any, x: Any, out: Any, panel: Any, row: Any, inputs: Any, count: Any,
        begin: Any, share: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(panels, x, out, *[types.intp] * 6)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            _Block(builder, weight_bytes, *args).emit(num_rows)
            return context.get_dummy_value()

        return signature, generate

    return block


class _Block:
    """Emits the instructions at ``builder``'s place."""

    def __init__(  # noqa: PLR0913
        self, builder: Any, weight_bytes: int, panels: Any, x: Any, out: Any, panel: Any, row: Any,
        num_inputs: Any, num_panels: Any, begin: Any, share: Any,
    ) -> None:  # fmt: skip
        self._builder = builder
        self._weight_bytes = weight_bytes
        self._index: Any = num_inputs.type
        width = self._index(PANEL_OUTPUTS)
        self._num_inputs = num_inputs
        self._input_bytes = self._index(PANEL_OUTPUTS * weight_bytes)
        self._panel_bytes = builder.mul(num_inputs, self._input_bytes)
        self._panel = builder.gep(panels, [builder.mul(panel, self._panel_bytes)])
        self._x, self._out = x, out
        self._first_row = row
        self._first_output = builder.mul(panel, width)
        self._num_outputs = builder.mul(num_panels, width)
        self._begin, self._share = begin, share

    def emit(self, num_rows: int) -> None:
        builder = self._builder
        rows = [builder.add(self._first_row, self._index(row)) for row in range(num_rows)]
        inputs = [builder.gep(self._x, [builder.mul(row, self._num_inputs)]) for row in rows]
        sums = zeros(builder, _FLOAT, _LANES, num_rows, _PARTS)
        with cgutils.for_range(builder, self._num_inputs) as loop:
            self._add_input(loop.index, sums, inputs)
        for row, of_row in zip(rows, sums, strict=True):
            self._store(row, [builder.load(pointer) for pointer in of_row])

    def _add_input(self, number: Any, sums: list[list[Any]], inputs: list[Any]) -> None:
        """One input's weights times that input of each row."""
        builder = self._builder
        start = builder.gep(self._panel, [builder.mul(number, self._input_bytes)])
        if len(inputs) >= _FETCHED_ROWS:
            self._fetch_next_panel(number)
        weights = [self._weights(start, part) for part in range(_PARTS)]
        for of_row, of_input in zip(sums, inputs, strict=True):
            self._add(of_row, weights, builder.load(builder.gep(of_input, [number])))

    def _fetch_next_panel(self, number: Any) -> None:
        builder = self._builder
        place = builder.add(self._begin, builder.mul(number, self._share))
        fetch(builder, builder.gep(self._panel, [builder.add(place, self._panel_bytes)]))

    def _weights(self, start: Any, part: int) -> Any:
        """A vector of the input's weights, whole again."""
        builder, kept = self._builder, self._weight_bytes
        of_part = builder.gep(start, [self._index(part * _LANES * kept)])
        if kept == FLOAT_BYTES:
            return builder.load(builder.bitcast(of_part, _VECTOR.as_pointer()), align=1)
        num_bytes = _LANES * FLOAT_BYTES
        all_bytes = ir.VectorType(INT8, num_bytes)
        read = builder.load(builder.bitcast(of_part, all_bytes.as_pointer()), align=1)
        nothing = ir.Constant(all_bytes, [0] * num_bytes)
        dropped = FLOAT_BYTES - kept
        places = [
            num_bytes if byte < dropped else lane * kept + byte - dropped  # from ``nothing``
            for lane in range(_LANES)
            for byte in range(FLOAT_BYTES)
        ]
        return builder.bitcast(builder.shuffle_vector(read, nothing, numbers(places)), _VECTOR)

    def _add(self, sums: list[Any], weights: list[Any], value: Any) -> None:
        builder = self._builder
        inputs = everywhere(builder, value, _LANES)
        for pointer, of_outputs in zip(sums, weights, strict=True):
            builder.store(fused(builder, inputs, of_outputs, builder.load(pointer)), pointer)

    def _store(self, row: Any, totals: list[Any]) -> None:
        builder = self._builder
        place = builder.add(builder.mul(row, self._num_outputs), self._first_output)
        for part, total in enumerate(totals):
            start = builder.gep(self._out, [builder.add(place, self._index(part * _LANES))])
            builder.store(total, builder.bitcast(start, _VECTOR.as_pointer()), align=4)
