"""A panel's weights made whole once, as LLVM instructions: where many rows meet them.

Weights that are held in few bits are made float32 by each block of rows that meets them. From a few
blocks on it is less work to write them down, where they stay in the processor's cache.
"""

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from specedge.engine.panel_layout import PANEL_OUTPUTS
from specedge.engine.weight_readers import LANES, VECTOR, Reader


def expansion_of(reader: Reader, together: int) -> Any:
    """A function for compiled code: ``expand(panels, panel, num_inputs, whole)``.

    It writes the weights of ``together`` panels, from number ``panel`` on, to ``whole`` (together,
    num_inputs, PANEL_OUTPUTS) float32. The arrays are pointers; the bounds are the caller's care.
    """

    @intrinsic
    def expand(_: Any, panels: Any, panel: Any, inputs: Any, whole: Any) -> Any:
        signature = types.void(panels, types.intp, types.intp, whole)

        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            _emit(builder, reader, together, *args)
            return context.get_dummy_value()

        return signature, generate

    return expand


def _emit(
    builder: Any, reader: Reader, together: int,
    panels: Any, panel: Any, num_inputs: Any, whole: Any,
) -> None:  # fmt: skip
    index: Any = num_inputs.type
    per_panel = builder.udiv(num_inputs, index(reader.group_inputs))
    first = builder.mul(panel, per_panel)
    # Groups of one panel follow those of the other, in what is read and in what is written.
    num_groups = builder.mul(per_panel, index(together))
    with cgutils.for_range(builder, num_groups) as groups:
        begin = builder.mul(builder.add(first, groups.index), index(reader.group_bytes))
        start = builder.gep(panels, [begin])
        common = reader.common(builder, start)
        step_inputs = reader.group_inputs // reader.num_steps
        with cgutils.for_range(builder, index(reader.num_steps)) as steps:
            step = builder.add(builder.mul(groups.index, index(reader.num_steps)), steps.index)
            for number, parts in enumerate(reader.weights(builder, common, start, steps.index)):
                place = builder.add(builder.mul(step, index(step_inputs)), index(number))
                for part, weights in enumerate(parts):
                    offset = builder.add(
                        builder.mul(place, index(PANEL_OUTPUTS)), index(part * LANES)
                    )
                    written = builder.gep(whole, [offset])
                    builder.store(weights, builder.bitcast(written, VECTOR.as_pointer()), align=4)
