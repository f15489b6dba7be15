"""The innermost block of a product by panels, as LLVM instructions: some rows times one panel.

Written out because a compiler given the loops keeps the sums in memory, or transposes: here they
are in registers, two vectors of eight outputs for each row. Portable: LLVM lowers the vectors to
what the processor has. Knows numba and nothing of torch.
"""

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

PANEL_OUTPUTS: Final = 16
# Twelve sums, two vectors of weights and an input fill the sixteen registers of AVX2.
MOST_ROWS: Final = 6

_LANES: Final = 8
_HALVES: Final = PANEL_OUTPUTS // _LANES
_FLOAT: Final = ir.FloatType()
_INT32: Final = ir.IntType(32)
_BYTE_POINTER: Final = ir.IntType(8).as_pointer()
_SUMS: Final = ir.VectorType(_FLOAT, _LANES)
_FIRST_LANE: Final = ir.Constant(ir.VectorType(_INT32, _LANES), [0] * _LANES)
_UNDEFINED: Final = ir.Constant(_SUMS, ir.Undefined)
# Rows from which on the next panel is fetched by hand: below, memory is waited for anyway.
_FETCHED_ROWS: Final = 3
# Into the second cache. The first has no room for a panel, and as few lines on the way to it at a
# time as would halve what the memory yields.
_SECOND_CACHE: Final = 2


def block_of(num_rows: int) -> Any:
    """A function for compiled code: ``block(panels, x, out, panel, row, num_inputs, num_panels)``.

    It puts the products of ``num_rows`` rows of x (m, num_inputs), from ``row`` on, with panel
    number ``panel`` into out (m, num_panels * PANEL_OUTPUTS). The arrays are pointers to C-ordered
    float32; the bounds are the caller's care.
    """

    @intrinsic
    def block(
        _: Any, panels: Any, x: Any, out: Any, panel: Any, row: Any, inputs: Any, count: Any
    ) -> Any:
        signature = types.void(panels, x, out, *[types.intp] * 4)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            _Block(builder, *args).emit(num_rows)
            return context.get_dummy_value()

        return signature, generate

    return block


class _Block:
    """Emits the instructions at ``builder``'s place."""

    def __init__(  # noqa: PLR0913
        self,
        builder: Any,
        panels: Any,
        x: Any,
        out: Any,
        panel: Any,
        row: Any,
        num_inputs: Any,
        num_panels: Any,
    ) -> None:
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

    def emit(self, num_rows: int) -> None:
        builder = self._builder
        rows = [builder.add(self._first_row, self._index(row)) for row in range(num_rows)]
        inputs = [builder.gep(self._x, [builder.mul(row, self._num_inputs)]) for row in rows]
        sums = _zeros(builder, num_rows)
        with cgutils.for_range(builder, self._num_inputs) as loop:
            self._add_input(loop.index, sums, inputs)
        for row, of_row in zip(rows, sums, strict=True):
            self._store(row, [builder.load(pointer) for pointer in of_row])

    def _add_input(self, number: Any, sums: list[list[Any]], inputs: list[Any]) -> None:
        """One input's weights times that input of each row."""
        builder = self._builder
        place = builder.mul(number, self._index(PANEL_OUTPUTS))
        if len(inputs) >= _FETCHED_ROWS:
            self._fetch_next_panel(place)
        weights = [self._weights(place, half) for half in range(_HALVES)]
        for of_row, of_input in zip(sums, inputs, strict=True):
            self._add(of_row, weights, builder.load(builder.gep(of_input, [number])))

    def _fetch_next_panel(self, place: Any) -> None:
        builder = self._builder
        address = builder.gep(self._panel, [builder.add(place, self._panel_size)])
        kind = ir.FunctionType(ir.VoidType(), [_BYTE_POINTER, _INT32, _INT32, _INT32])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for_reading, where_to, of_data = _INT32(0), _INT32(_SECOND_CACHE), _INT32(1)
        address = builder.bitcast(address, _BYTE_POINTER)
        builder.call(fetch, [address, for_reading, where_to, of_data])

    def _weights(self, place: Any, half: int) -> Any:
        builder = self._builder
        start = builder.gep(self._panel, [builder.add(place, self._index(half * _LANES))])
        return builder.load(builder.bitcast(start, _SUMS.as_pointer()), align=4)

    def _add(self, sums: list[Any], weights: list[Any], value: Any) -> None:
        builder = self._builder
        first = builder.insert_element(_UNDEFINED, value, _INT32(0))
        everywhere = builder.shuffle_vector(first, _UNDEFINED, _FIRST_LANE)
        kind = ir.FunctionType(_SUMS, [_SUMS] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{_LANES}f32")
        for pointer, of_outputs in zip(sums, weights, strict=True):
            builder.store(
                builder.call(fma, [everywhere, of_outputs, builder.load(pointer)]), pointer
            )

    def _store(self, row: Any, totals: list[Any]) -> None:
        builder = self._builder
        place = builder.add(builder.mul(row, self._num_outputs), self._first_output)
        for half, total in enumerate(totals):
            start = builder.gep(self._out, [builder.add(place, self._index(half * _LANES))])
            as_vector = builder.bitcast(start, _SUMS.as_pointer())
            builder.store(total, as_vector, align=4)


def _zeros(builder: Any, num_rows: int) -> list[list[Any]]:
    """Sums that begin at zero: by row and half, where they are kept."""
    zero = ir.Constant(_SUMS, [0.0] * _LANES)
    return [
        [cgutils.alloca_once_value(builder, zero) for _ in range(_HALVES)] for _ in range(num_rows)
    ]
