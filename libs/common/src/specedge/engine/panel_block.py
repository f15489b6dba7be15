"""The innermost block of a product by panels, as LLVM instructions: some rows times a few panels.

Written out because a compiler given the loops keeps the sums in memory, or transposes: here they
are in registers, PANEL_OUTPUTS outputs for each row. Portable: LLVM lowers the vectors to what the
processor has. Knows numba and nothing of torch; what a weight looks like is its reader's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from numba.core import cgutils, types
from numba.extending import intrinsic

from specedge.engine.panel_layout import PANEL_OUTPUTS
from specedge.engine.vector_code import FLOAT, everywhere, fetch, fused, zeros
from specedge.engine.weight_readers import LANES, PARTS, VECTOR, Reader

_LINE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class BlockShape:
    """How much of a product is in registers at once.

    most_rows     of the input that meet a panel: its weights are read once for them
    together      panels that a row's input meets: a sum takes some turns of the processor, so that
                  several have to be under way
    fetched_rows  rows from which on the next panels are fetched by hand: below, memory is waited
                  for anyway
    """

    most_rows: int
    together: int
    fetched_rows: int


def block_of(reader: Reader, shape: BlockShape) -> Any:
    """A function for compiled code: ``block(panels, x, out, panel, row, rows, num_inputs,
    num_panels, begin, share)``.

    It puts the products of ``rows`` rows of x (m, num_inputs), from ``row`` on, with
    ``shape.together`` panels, from number ``panel`` on, into out (m, num_panels * PANEL_OUTPUTS);
    1 <= rows <= ``shape.most_rows``. Of each panel after those it fetches, from byte ``begin`` on,
    ``share`` bytes for every group of the reader's inputs. The arrays are pointers, to bytes and
    to C-ordered float32; the bounds are the caller's care.
    """

    @intrinsic
    def block(  # noqa: PLR0913
        _: Any, panels: Any, x: Any, out: Any, panel: Any, row: Any, rows: Any, inputs: Any,
        count: Any, begin: Any, share: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(panels, x, out, *[types.intp] * 7)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            panels, x, out, panel, row, rows, *sizes = args
            code = _Block(builder, reader, shape, panels, x, out, panel, row, *sizes)
            _for_each_number(builder, rows, shape.most_rows, code.emit)
            return context.get_dummy_value()

        return signature, generate

    return block


def _for_each_number(builder: Any, value: Any, most: int, emit: Callable[[int], None]) -> None:
    """``emit(1)`` to ``emit(most)``, of which the one is run that ``value`` names."""
    done = builder.append_basic_block("done")
    switch = builder.switch(value, done)
    for number in range(1, most + 1):
        case = builder.append_basic_block(f"rows_{number}")
        switch.add_case(value.type(number), case)
        builder.position_at_end(case)
        emit(number)
        builder.branch(done)
    builder.position_at_end(done)


class _Block:
    """Emits the instructions at ``builder``'s place."""

    def __init__(  # noqa: PLR0913
        self, builder: Any, reader: Reader, shape: BlockShape, panels: Any, x: Any, out: Any,
        panel: Any, row: Any, num_inputs: Any, num_panels: Any, begin: Any, share: Any,
    ) -> None:  # fmt: skip
        self._builder, self._reader, self._shape = builder, reader, shape
        self._index: Any = num_inputs.type
        self._num_inputs = num_inputs
        self._num_groups = builder.udiv(num_inputs, self._index(reader.group_inputs))
        self._panel_bytes = builder.mul(self._num_groups, self._index(reader.group_bytes))
        numbers = [builder.add(panel, self._index(more)) for more in range(shape.together)]
        self._panels = [
            builder.gep(panels, [builder.mul(number, self._panel_bytes)]) for number in numbers
        ]
        self._x, self._out, self._first_row = x, out, row
        self._first_outputs = [builder.mul(one, self._index(PANEL_OUTPUTS)) for one in numbers]
        self._num_outputs = builder.mul(num_panels, self._index(PANEL_OUTPUTS))
        self._begin, self._share = begin, share

    def emit(self, num_rows: int) -> None:
        builder = self._builder
        rows = [builder.add(self._first_row, self._index(row)) for row in range(num_rows)]
        inputs = [builder.gep(self._x, [builder.mul(row, self._num_inputs)]) for row in rows]
        sums = [zeros(builder, FLOAT, LANES, num_rows, PARTS) for _ in self._panels]
        with cgutils.for_range(builder, self._num_groups) as loop:
            self._add_group(loop.index, sums, inputs)
        for first_output, of_panel in zip(self._first_outputs, sums, strict=True):
            for row, of_row in zip(rows, of_panel, strict=True):
                self._store(row, first_output, [builder.load(pointer) for pointer in of_row])

    def _add_group(self, group: Any, sums: list[list[list[Any]]], inputs: list[Any]) -> None:
        """A group of inputs' weights times these inputs of each row."""
        builder, reader = self._builder, self._reader
        begin = builder.mul(group, self._index(reader.group_bytes))
        first = builder.mul(group, self._index(reader.group_inputs))
        if len(inputs) >= self._shape.fetched_rows:
            self._fetch_ahead(group)
        starts = [builder.gep(one, [begin]) for one in self._panels]
        groups = [(start, reader.common(builder, start)) for start in starts]
        if reader.num_steps == 1:
            self._add_step(groups, self._index(0), first, sums, inputs)
            return
        step_inputs = self._index(reader.group_inputs // reader.num_steps)
        with cgutils.for_range(builder, self._index(reader.num_steps)) as loop:
            here = builder.add(first, builder.mul(loop.index, step_inputs))
            self._add_step(groups, loop.index, here, sums, inputs)

    def _add_step(
        self, groups: list[Any], step: Any, first: Any, sums: list[Any], inputs: list[Any]
    ) -> None:
        builder, reader = self._builder, self._reader
        of_panels = [reader.weights(builder, common, start, step) for start, common in groups]
        for number, weights in enumerate(zip(*of_panels, strict=True)):
            place = builder.add(first, self._index(number))
            for row, of_row in enumerate(inputs):
                value = builder.load(builder.gep(of_row, [place]))
                inputs_here = everywhere(builder, value, LANES)
                for of_panel, vectors in zip(sums, weights, strict=True):
                    self._add(of_panel[row], vectors, inputs_here)

    def _fetch_ahead(self, group: Any) -> None:
        builder = self._builder
        place = builder.add(self._begin, builder.mul(group, self._share))
        further = builder.mul(self._panel_bytes, self._index(self._shape.together))
        starts = [builder.gep(one, [builder.add(place, further)]) for one in self._panels]
        if self._reader.group_bytes <= _LINE_BYTES:
            for start in starts:
                fetch(builder, start)
            return
        lines = builder.udiv(
            builder.add(self._share, self._index(_LINE_BYTES - 1)), self._index(_LINE_BYTES)
        )
        with cgutils.for_range(builder, lines) as loop:
            for start in starts:
                fetch(
                    builder, builder.gep(start, [builder.mul(loop.index, self._index(_LINE_BYTES))])
                )

    def _add(self, sums: list[Any], weights: list[Any], inputs: Any) -> None:
        builder = self._builder
        for pointer, of_outputs in zip(sums, weights, strict=True):
            builder.store(fused(builder, inputs, of_outputs, builder.load(pointer)), pointer)

    def _store(self, row: Any, first_output: Any, totals: list[Any]) -> None:
        builder = self._builder
        place = builder.add(builder.mul(row, self._num_outputs), first_output)
        for part, total in enumerate(totals):
            start = builder.gep(self._out, [builder.add(place, self._index(part * LANES))])
            builder.store(total, builder.bitcast(start, VECTOR.as_pointer()), align=4)
