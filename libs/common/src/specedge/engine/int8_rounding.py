"""Weights in eight bits, each output with a scale of its own: drafters need not be exact.

Owns the rounding, which storing and computing share: what was rounded once is rounded to itself.
"""

from typing import Final

import torch
from torch import Tensor

MOST: Final = 127


def rounded_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(n, k) of any float type → (n, k) int8, and its outputs' scale (n,) float32."""
    exact = weight.float()
    scale = exact.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / MOST
    return (exact / scale[:, None]).round().to(torch.int8), scale


def widened(rounded: Tensor, scale: Tensor) -> Tensor:
    """(n, k) float32 of what ``rounded_to_int8`` gave."""
    return rounded.float() * scale[:, None]
