"""How compiled code multiplies rows with a model's matrices: in integers or in float32.

Both kinds are called alike, by addresses, so that what is compiled around them stands once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from specedge.engine import integer_panels, panels
from specedge.engine.addresses import Compiled, compiled


@dataclass(frozen=True, slots=True, eq=False)
class MatrixProducts:
    """Compiled functions; all arguments are addresses or counts.

    prepare   ``prepare(x, rounded, row_scale, m, k)``: once for the rows x (m, k) float32, which
              then meet any number of matrices
    multiply  ``multiply(panels, form, x, rounded, row_scale, out, m, k, p)``: those rows with p
              panels of a matrix, into out (m, p * PANEL_OUTPUTS) float32

    ``rounded`` (m, k + k % 2) int16 and ``row_scale`` (m,) float32 are scratch; ``form`` is a
    matrix' own: in integers the address of its scale, in float32 how many bytes a weight has.
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
        times(panels_at, scale, rounded, row_scale, out, num_rows, num_inputs, num_panels)

    return MatrixProducts(integer_panels.rounding(), _of_nine(multiply))


@cache
def in_floats(weight_bytes: frozenset[int]) -> MatrixProducts:
    """With matrices of ``panels``: float32, every sum in the order of the inputs. Of their weights
    so many bytes are kept, 2, 3 or 4: one number or several."""
    # What no matrix has is not compiled.
    two, three, four = (
        panels.product(kept if kept in weight_bytes else min(weight_bytes)) for kept in (2, 3, 4)
    )

    def prepare(_x: int, _rounded: int, _row_scale: int, _num_rows: int, _num_inputs: int) -> None:
        pass

    def multiply(
        panels_at: int, kept: int, x: int, _rounded: int, _row_scale: int, out: int,
        num_rows: int, num_inputs: int, num_panels: int,
    ) -> None:  # fmt: skip
        if kept == 2:
            two(x, panels_at, out, num_rows, num_inputs, num_panels)
        elif kept == 3:
            three(x, panels_at, out, num_rows, num_inputs, num_panels)
        else:
            four(x, panels_at, out, num_rows, num_inputs, num_panels)

    return MatrixProducts(compiled(prepare, num_arguments=5), _of_nine(multiply))


def _of_nine(multiply: Callable[..., None]) -> Compiled:
    return compiled(multiply, num_arguments=9)
