"""How compiled code multiplies rows with a model's matrices: in integers or in float32.

Both kinds are called alike, by addresses, so that what is compiled around them stands once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

from specedge.engine import integer_panels, panels
from specedge.engine.addresses import Compiled, compiled
from specedge.engine.weight_forms import WeightForm

_BLOCKS_4: Final = int(WeightForm.BLOCKS_OF_4_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class MatrixProducts:
    """Compiled functions; all arguments are addresses or counts.

    prepare   ``prepare(x, rounded, row_scale, m, k)``: once for the rows x (m, k) float32, which
              then meet any number of matrices
    multiply  ``multiply(panels, form, x, rounded, row_scale, out, m, k, p)``: those rows with p
              panels of a matrix, into out (m, p * PANEL_OUTPUTS) float32

    ``rounded`` (m, k + k % 2) int16 and ``row_scale`` (m,) float32 are scratch; ``form`` is a
    matrix' own: in integers the address of its scale, in float32 its ``WeightForm``.
    """

    prepare: Compiled
    multiply: Compiled


@cache
def in_integers() -> MatrixProducts:
    """With matrices of ``integer_panels``: int8, inputs rounded to int16."""
    times = integer_panels.product()

    def multiply(  # noqa: PLR0913
        panels_at: int, scale: int, _x: int, rounded: int, row_scale: int, out: int,
        num_rows: int, num_inputs: int, num_panels: int,
    ) -> None:  # fmt: skip
        times(
            panels_at, scale, rounded, row_scale, out, num_rows, num_inputs, num_panels,
            0, num_panels,
        )  # fmt: skip

    return MatrixProducts(integer_panels.rounding(), _of_nine(multiply))


@cache
def in_floats(forms: frozenset[WeightForm]) -> MatrixProducts:
    """With matrices of ``panels``: float32, every sum in the order of the inputs. Their weights are
    held in these forms."""
    # What no matrix has is not compiled.
    two, three, four, blocks_4, blocks_8 = (
        panels.product(form if form in forms else min(forms)) for form in WeightForm
    )

    def prepare(_x: int, _rounded: int, _row_scale: int, _num_rows: int, _num_inputs: int) -> None:
        pass

    def multiply(
        panels_at: int, form: int, x: int, _rounded: int, _row_scale: int, out: int,
        num_rows: int, num_inputs: int, num_panels: int,
    ) -> None:  # fmt: skip
        if form == 2:
            two(x, panels_at, out, num_rows, num_inputs, num_panels, 0, num_panels)
        elif form == 3:
            three(x, panels_at, out, num_rows, num_inputs, num_panels, 0, num_panels)
        elif form == 4:
            four(x, panels_at, out, num_rows, num_inputs, num_panels, 0, num_panels)
        elif form == _BLOCKS_4:
            blocks_4(x, panels_at, out, num_rows, num_inputs, num_panels, 0, num_panels)
        else:
            blocks_8(x, panels_at, out, num_rows, num_inputs, num_panels, 0, num_panels)

    return MatrixProducts(compiled(prepare, num_arguments=5), _of_nine(multiply))


def _of_nine(multiply: Callable[..., None]) -> Compiled:
    return compiled(multiply, num_arguments=9)
