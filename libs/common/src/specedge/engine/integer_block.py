"""The innermost block of an integer product by panels, as LLVM instructions: rows times one panel.

As ``panel_block``, for int8 weights and int16 inputs: two inputs' weights meet two inputs of a row
in one multiplication of sixteen pairs, whose halves are added where they are (x86's pmaddwd, and
with VNNI the sum as well). Sums are int32, and the same in any order. Knows numba, not torch.
"""

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from specedge.engine.panel_layout import PANEL_OUTPUTS
from specedge.engine.vector_code import INT8, INT32, everywhere, fetch, zeros

_LANES: Final = 8
_HALVES: Final = PANEL_OUTPUTS // _LANES
_INT16: Final = ir.IntType(16)
_FLOAT: Final = ir.FloatType()
_SUMS: Final = ir.VectorType(INT32, _LANES)
_SCALED: Final = ir.VectorType(_FLOAT, _LANES)
_PAIRS: Final = ir.VectorType(_INT16, 2 * _LANES)
# With VNNI a sum takes five turns of the processor: a few rows' are divided.
_CHAINS: Final = {1: 4, 2: 2}
# So many panels ahead, one is fetched by hand, into the second cache, as panel_block does: two,
# since a panel is a quarter as large, and for any number of rows, since these are sooner done.
# Beside what empties the caches, a pass of 1, 4 and 8 rows takes 0.75, 0.93 and 0.98 of the time.
_FETCHED_AHEAD: Final = 2


def block_of(num_rows: int) -> Any:
    """A function for compiled code: ``block(panels, x, x_scale, scale, out, panel, row, pairs,
    num_panels, begin, share)``.

    It puts the products of ``num_rows`` rows of x (m, 2 * pairs) int16, from ``row`` on, with panel
    number ``panel``, (pairs, PANEL_OUTPUTS, 2) int8, times x_scale (m,) and the outputs' scale,
    into out (m, num_panels * PANEL_OUTPUTS) float32. Of a panel to come it fetches, from number
    ``begin`` on, ``share`` numbers for every pair. The arrays are pointers; the bounds, and that no
    sum exceeds an int32, are the caller's care.
    """

    @intrinsic
    def block(  # noqa: PLR0913
        _: Any, panels: Any, x: Any, x_scale: Any, scale: Any, out: Any,
        panel: Any, row: Any, pairs: Any, count: Any, begin: Any, share: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(panels, x, x_scale, scale, out, *[types.intp] * 6)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            _Block(builder, *args).emit(num_rows)
            return context.get_dummy_value()

        return signature, generate

    return block


class _Block:
    """Emits the instructions at ``builder``'s place."""

    def __init__(  # noqa: PLR0913
        self, builder: Any, panels: Any, x: Any, x_scale: Any, scale: Any, out: Any,
        panel: Any, row: Any, pairs: Any, num_panels: Any, begin: Any, share: Any,
    ) -> None:  # fmt: skip
        self._builder = builder
        self._index: Any = pairs.type
        self._pairs = pairs
        self._panel_size = builder.mul(pairs, self._index(2 * PANEL_OUTPUTS))
        self._panel = builder.gep(panels, [builder.mul(panel, self._panel_size)])
        self._x, self._x_scale, self._scale, self._out = x, x_scale, scale, out
        self._first_row = row
        self._first_output = builder.mul(panel, self._index(PANEL_OUTPUTS))
        self._num_outputs = builder.mul(num_panels, self._index(PANEL_OUTPUTS))
        self._begin, self._share = begin, share

    def emit(self, num_rows: int) -> None:
        builder = self._builder
        rows = [builder.add(self._first_row, self._index(row)) for row in range(num_rows)]
        inputs = [self._pairs_of(row) for row in rows]
        num_chains = _CHAINS.get(num_rows, 1)
        chains = [zeros(builder, INT32, _LANES, num_rows, _HALVES) for _ in range(num_chains)]
        turns = builder.udiv(self._pairs, self._index(len(chains)))
        with cgutils.for_range(builder, turns) as loop:
            first = builder.mul(loop.index, self._index(len(chains)))
            for chain, sums in enumerate(chains):
                self._add_pair(builder.add(first, self._index(chain)), sums, inputs)
        done = builder.mul(turns, self._index(len(chains)))
        with cgutils.for_range(builder, builder.sub(self._pairs, done)) as loop:
            self._add_pair(builder.add(done, loop.index), chains[0], inputs)
        for row, of_row in zip(rows, _total(builder, chains), strict=True):
            self._store(row, of_row)

    def _pairs_of(self, row: Any) -> Any:
        """A row's pairs of inputs, each as one int32."""
        builder = self._builder
        start = builder.mul(row, builder.mul(self._pairs, self._index(2)))
        return builder.bitcast(builder.gep(self._x, [start]), INT32.as_pointer())

    def _add_pair(self, number: Any, sums: list[list[Any]], inputs: list[Any]) -> None:
        builder = self._builder
        place = builder.mul(number, self._index(2 * PANEL_OUTPUTS))
        self._fetch_ahead(number)
        weights = [self._weights(place, half) for half in range(_HALVES)]
        for of_row, of_input in zip(sums, inputs, strict=True):
            pair = builder.load(builder.gep(of_input, [number]), align=2)
            inputs_here = builder.bitcast(everywhere(builder, pair, _LANES), _PAIRS)
            for pointer, of_outputs in zip(of_row, weights, strict=True):
                product = _multiply_and_add(builder, inputs_here, of_outputs)
                builder.store(builder.add(builder.load(pointer), product), pointer)

    def _fetch_ahead(self, number: Any) -> None:
        builder = self._builder
        place = builder.add(self._begin, builder.mul(number, self._share))
        further = builder.mul(self._panel_size, self._index(_FETCHED_AHEAD))
        fetch(builder, builder.gep(self._panel, [builder.add(place, further)]))

    def _weights(self, place: Any, half: int) -> Any:
        builder = self._builder
        start = builder.add(place, self._index(half * 2 * _LANES))
        kind = ir.VectorType(INT8, 2 * _LANES)
        as_vector = builder.bitcast(builder.gep(self._panel, [start]), kind.as_pointer())
        return builder.sext(builder.load(as_vector, align=1), _PAIRS)

    def _store(self, row: Any, totals: list[Any]) -> None:
        builder = self._builder
        of_row = everywhere(builder, builder.load(builder.gep(self._x_scale, [row])), _LANES)
        place = builder.add(builder.mul(row, self._num_outputs), self._first_output)
        for half, total in enumerate(totals):
            offset = self._index(half * _LANES)
            scale = self._vector(self._scale, builder.add(self._first_output, offset))
            exact = builder.sitofp(total, _SCALED)
            scaled = builder.fmul(exact, builder.fmul(builder.load(scale, align=4), of_row))
            out = self._vector(self._out, builder.add(place, offset))
            builder.store(scaled, out, align=4)

    def _vector(self, floats: Any, place: Any) -> Any:
        builder = self._builder
        return builder.bitcast(builder.gep(floats, [place]), _SCALED.as_pointer())


def _multiply_and_add(builder: Any, inputs: Any, weights: Any) -> Any:
    """Sixteen products of int16, neighbours added: (8,) int32. LLVM finds the one instruction."""
    wide = ir.VectorType(INT32, 2 * _LANES)
    products = builder.mul(builder.sext(inputs, wide), builder.sext(weights, wide), flags=["nsw"])
    undefined = ir.Constant(wide, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(
            products, undefined, ir.Constant(_SUMS, list(range(first, 2 * _LANES, 2)))
        )
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _total(builder: Any, chains: list[list[list[Any]]]) -> list[list[Any]]:
    totals = [[builder.load(pointer) for pointer in of_row] for of_row in chains[0]]
    for chain in chains[1:]:
        for total, of_row in zip(totals, chain, strict=True):
            for half, pointer in enumerate(of_row):
                total[half] = builder.add(total[half], builder.load(pointer))
    return totals
