"""The innermost block of a product by panels, as LLVM instructions: some rows times one panel.

Written out because a compiler given the loops keeps the sums in memory, or transposes: here they
are in registers, two vectors of eight outputs for each row. Portable: LLVM lowers the vectors to
what the processor has. Knows numba and nothing of torch.
"""

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from specedge.engine.vector_code import LANES, everywhere, fetch, zeros

PANEL_OUTPUTS: Final = 16
# Twelve sums, two vectors of weights and an input fill the sixteen registers of AVX2.
MOST_ROWS: Final = 6

_HALVES: Final = PANEL_OUTPUTS // LANES
_FLOAT: Final = ir.FloatType()
_SUMS: Final = ir.VectorType(_FLOAT, LANES)
# Rows from which on the next panel is fetched by hand: below, memory is waited for anyway. Where
# several blocks of rows meet a panel, each fetches its share, so that memory is read all the while:
# of 7 to 12 rows a product takes 0.80 to 0.86 of the time, of 18 and 24 0.88.
_FETCHED_ROWS: Final = 3


def block_of(num_rows: int) -> Any:
    """A function for compiled code: ``block(panels, x, out, panel, row, num_inputs, num_panels,
    begin, share)``.

    It puts the products of ``num_rows`` rows of x (m, num_inputs), from ``row`` on, with panel
    number ``panel`` into out (m, num_panels * PANEL_OUTPUTS). Of the next panel it fetches, from
    number ``begin`` on, ``share`` numbers for every input. The arrays are pointers to C-ordered
    float32; the bounds are the caller's care.
    """

    @intrinsic
    def block(  # noqa: PLR0913
        _: Any, panels: Any, x: Any, out: Any, panel: Any, row: Any, inputs: Any, count: Any,
        begin: Any, share: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(panels, x, out, *[types.intp] * 6)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            _Block(builder, *args).emit(num_rows)
            return context.get_dummy_value()

        return signature, generate

    return block


class _Block:
    """Emits the instructions at ``builder``'s place."""

    def __init__(  # noqa: PLR0913
        self, builder: Any, panels: Any, x: Any, out: Any, panel: Any, row: Any, num_inputs: Any,
        num_panels: Any, begin: Any, share: Any,
    ) -> None:  # fmt: skip
        self._builder = builder
        self._index: Any = num_inputs.type
        width = self._index(PANEL_OUTPUTS)
        self._num_inputs = num_inputs
        self._panel_size = builder.mul(num_inputs, width)
        self._panel = builder.gep(panels, [builder.mul(panel, self._panel_size)])
        self._x, self._out = x, out
        self._first_row = row
        self._first_output = builder.mul(panel, width)
        self._num_outputs = builder.mul(num_panels, width)
        self._begin, self._share = begin, share

    def emit(self, num_rows: int) -> None:
        builder = self._builder
        rows = [builder.add(self._first_row, self._index(row)) for row in range(num_rows)]
        inputs = [builder.gep(self._x, [builder.mul(row, self._num_inputs)]) for row in rows]
        sums = zeros(builder, _FLOAT, num_rows, _HALVES)
        with cgutils.for_range(builder, self._num_inputs) as loop:
            self._add_input(loop.index, sums, inputs)
        for row, of_row in zip(rows, sums, strict=True):
            self._store(row, [builder.load(pointer) for pointer in of_row])

    def _add_input(self, number: Any, sums: list[list[Any]], inputs: list[Any]) -> None:
        """One input's weights times that input of each row."""
        builder = self._builder
        place = builder.mul(number, self._index(PANEL_OUTPUTS))
        if len(inputs) >= _FETCHED_ROWS:
            self._fetch_next_panel(number)
        weights = [self._weights(place, half) for half in range(_HALVES)]
        for of_row, of_input in zip(sums, inputs, strict=True):
            self._add(of_row, weights, builder.load(builder.gep(of_input, [number])))

    def _fetch_next_panel(self, number: Any) -> None:
        builder = self._builder
        place = builder.add(self._begin, builder.mul(number, self._share))
        fetch(builder, builder.gep(self._panel, [builder.add(place, self._panel_size)]))

    def _weights(self, place: Any, half: int) -> Any:
        builder = self._builder
        start = builder.gep(self._panel, [builder.add(place, self._index(half * LANES))])
        return builder.load(builder.bitcast(start, _SUMS.as_pointer()), align=4)

    def _add(self, sums: list[Any], weights: list[Any], value: Any) -> None:
        builder = self._builder
        inputs = everywhere(builder, value)
        kind = ir.FunctionType(_SUMS, [_SUMS] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
        for pointer, of_outputs in zip(sums, weights, strict=True):
            builder.store(builder.call(fma, [inputs, of_outputs, builder.load(pointer)]), pointer)

    def _store(self, row: Any, totals: list[Any]) -> None:
        builder = self._builder
        place = builder.add(builder.mul(row, self._num_outputs), self._first_output)
        for half, total in enumerate(totals):
            start = builder.gep(self._out, [builder.add(place, self._index(half * LANES))])
            as_vector = builder.bitcast(start, _SUMS.as_pointer())
            builder.store(total, as_vector, align=4)
