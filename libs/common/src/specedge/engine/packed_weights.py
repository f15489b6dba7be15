"""Matrices in panels as objects, and their products with torch's tensors.

numba is imported where there is such a matrix, and not before.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from specedge.engine.divided_products import divided
from specedge.engine.large_pages import settled
from specedge.engine.panel_layout import PANEL_OUTPUTS, num_panels


class _Shape:
    """Of a matrix in panels."""

    def __init__(self, num_outputs: int, num_inputs: int) -> None:
        self._num_outputs, self._num_inputs = num_outputs, num_inputs
        self._num_panels = num_panels(num_outputs)
        self._num_filled = self._num_panels * PANEL_OUTPUTS

    def _divided(self, multiply: Callable[[int, int], None], rows: int) -> None:
        products = rows * self._num_inputs * self._num_filled
        divided(multiply, self._num_panels, products)


class FloatPanels(_Shape):
    """A weight (n, k) in panels, and their product. Asked by one thread at a time. ``addresses``:
    of the panels, and the form that weights have there; ``whole`` as for ``weight_forms``."""

    def __init__(self, weight: Tensor, *, whole: bool = False) -> None:
        from specedge.engine import panels, weight_forms

        super().__init__(*weight.shape)
        panels_of, self._form = weight_forms.packed(weight.contiguous().numpy(), whole=whole)
        self._panels = settled(panels_of)
        self._unpack = weight_forms.unpacked
        self.addresses = self._panels.ctypes.data, int(self._form)
        self._product = panels.product(self._form)
        self._product_of_many = panels.product_of_many(self._form)
        self._many_rows = panels.MANY_ROWS

    def weight(self) -> Tensor:
        """(n, k) fp32, unpacked."""
        shape = self._num_outputs, self._num_inputs
        return torch.from_numpy(self._unpack(self._panels, shape, self._form))

    def product(self, input: Tensor) -> Tensor:  # noqa: A002
        """input (…, k) · weightᵀ, fp32."""
        x = input.to(torch.float32).contiguous()
        out = torch.empty((*input.shape[:-1], self._num_filled))
        rows = input.numel() // self._num_inputs
        if rows:
            arrays = x.data_ptr(), self.addresses[0], out.data_ptr()
            sizes = rows, self._num_inputs, self._num_panels
            product = self._product if rows < self._many_rows else self._product_of_many
            self._divided(partial(product, *arrays, *sizes), rows)
        return out if self._num_filled == self._num_outputs else out[..., : self._num_outputs]


class IntegerPanels(_Shape):
    """An int8 weight (n, k) in panels with its outputs' ``scale``, and their product. Asked by one
    thread at a time. ``addresses``: of the panels and the scale."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        from specedge.engine import integer_panels

        super().__init__(*weight.shape)
        self._unpack = integer_panels.unpacked
        panels = integer_panels.packed(weight.numpy())
        self._panels = (
            settled(panels.reshape(-1).view(np.uint8)).view(np.int8).reshape(panels.shape)
        )
        self.scale = torch.zeros(self._num_filled)
        self.scale[: self._num_outputs] = scale
        self.addresses = self._panels.ctypes.data, self.scale.data_ptr()
        self._num_rounded = self._num_inputs + self._num_inputs % 2
        self._round, self._multiply = integer_panels.rounding(), integer_panels.product()

    def weight(self) -> Tensor:
        """(n, k) int8, unpacked."""
        return torch.from_numpy(self._unpack(self._panels, (self._num_outputs, self._num_inputs)))

    def product(self, input: Tensor) -> Tensor:  # noqa: A002
        """input (…, k) · (weight · scale)ᵀ, fp32."""
        x = input.to(torch.float32).contiguous()
        out = torch.empty((*input.shape[:-1], self._num_filled))
        rows = input.numel() // self._num_inputs
        if rows:
            rounded = torch.empty(rows * self._num_rounded, dtype=torch.int16)
            row_scale = torch.empty(rows)
            row = rounded.data_ptr(), row_scale.data_ptr()
            self._round(x.data_ptr(), *row, rows, self._num_inputs)
            sizes = rows, self._num_inputs, self._num_panels
            arrays = *self.addresses, *row, out.data_ptr()
            self._divided(partial(self._multiply, *arrays, *sizes), rows)
        return out if self._num_filled == self._num_outputs else out[..., : self._num_outputs]
