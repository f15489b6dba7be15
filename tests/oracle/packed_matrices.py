"""Matrices to be packed, and what is known of them once they are."""

import numpy as np
import torch
from torch import Tensor

from specedge.engine import kept_bytes, panels
from specedge.engine.packed_linear import PanelLinear
from specedge.engine.panel_layout import PANEL_OUTPUTS, num_panels
from specedge.engine.weight_forms import WeightForm


def of_few_bytes(weight: Tensor, kept: int) -> Tensor:
    """Of each number the upper so many bytes, and a weight that needs the last of them."""
    unit = 1 << 8 * (4 - kept)
    bits = weight.view(torch.int32) & -unit
    bits[0, 0] |= unit
    return bits.view(torch.float32)


def form_of(layer: PanelLinear) -> WeightForm:
    assert layer.addresses is not None
    return WeightForm(layer.addresses[1])


def product_of_whole(weight: Tensor, x: Tensor) -> Tensor:
    """What panels of all bytes of the weights give."""
    (rows, inputs), outputs = x.shape, len(weight)
    whole = kept_bytes.packed(weight.numpy(), 4)
    out = torch.empty(rows, num_panels(outputs) * PANEL_OUTPUTS)
    sizes = rows, inputs, num_panels(outputs)
    multiply = panels.product(WeightForm.WHOLE)
    multiply(x.data_ptr(), whole.ctypes.data, out.data_ptr(), *sizes, 0, sizes[-1])
    return out[:, :outputs]


def quantised(outputs: int, inputs: int, kind: str) -> Tensor:
    """Weights as a checkpoint in GGML's blocks of that kind gives them."""
    generator = np.random.default_rng(1)
    shape = outputs, inputs // 32, 32
    scale = generator.uniform(1e-3, 2e-2, (*shape[:2], 1)).astype(np.float16).astype(np.float32)
    least = -generator.uniform(0.05, 0.2, (*shape[:2], 1)).astype(np.float16).astype(np.float32)
    if kind == "Q4_1":
        digits = generator.integers(0, 16, shape)
        digits[..., :2] = 0, 15  # whoever quantises uses all steps
        weight = digits * scale + least
    else:
        steps, extreme = {"Q4_0": (8, -8), "Q5_0": (16, -16), "Q8_0": (128, 127)}[kind]
        digits = generator.integers(1 - steps, steps, shape)
        digits[..., 0] = extreme
        weight = digits * (scale * generator.choice([1, -1] if steps < 128 else [1], scale.shape))
    return torch.from_numpy(weight.astype(np.float32).reshape(outputs, inputs))
