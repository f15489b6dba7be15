"""The noise of ``specedge.sampling.noise`` on a device.

The hash is equal to the bit on every device: torch has no unsigned 64-bit arithmetic, so this is
written in int64, whose sums and products wrap to the same bits. The two logarithms are the
device's own, except on the CPU, where the reference itself is used, so that its choices agree to
the bit, and for a device without float64. On others a value differs from the reference by at most
one ulp of float32.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from specedge.sampling.noise import (
    GAMMA,
    MULTIPLIER_1,
    MULTIPLIER_2,
    UNIT,
    gumbel,
    gumbel_of,
    stream,
)
from specedge.tree.token_tree import IntArray


def has_float64(device: torch.device) -> bool:
    """Whether ``device`` computes in float64: Apple's GPUs do not."""
    return device.type != "mps"


def gumbel_rows(
    seed: int, positions: Sequence[int], vocab_size: int, device: torch.device
) -> Tensor:
    """Standard Gumbel noise of every token at each of ``positions``: (p, vocab_size) float32."""
    if _is_the_references(device):
        rows = [torch.from_numpy(gumbel(seed, position, vocab_size)) for position in positions]
        return torch.stack(rows).to(device)
    tokens = torch.arange(vocab_size, device=device)
    rows = [device_gumbel(device_hash(seed, position, tokens)) for position in positions]
    return torch.stack(rows)


def gumbel_of_tokens(seed: int, position: int, tokens: IntArray, device: torch.device) -> Tensor:
    """Standard Gumbel noise of ``tokens`` (v,) int32 at ``position``: (v,) float32."""
    if _is_the_references(device):
        return torch.from_numpy(gumbel_of(seed, position, tokens)).to(device)
    return device_gumbel(device_hash(seed, position, torch.from_numpy(tokens).to(device).long()))


def device_hash(seed: int, position: int, tokens: Tensor) -> Tensor:
    """hash_u64 of each of ``tokens`` (int64, each >= 0), its bits as int64 of the same shape."""
    z = (tokens + 1) * _GAMMA + _signed(stream(seed, position))
    z = (z ^ _shift(z, 30)) * _MULTIPLIER_1
    z = (z ^ _shift(z, 27)) * _MULTIPLIER_2
    return z ^ _shift(z, 31)


def device_gumbel(hashes: Tensor) -> Tensor:
    """The noise that a hash stands for: float32, by way of float64."""
    u = (_shift(hashes, 11) | 1).to(torch.float64) * UNIT
    return (-torch.log(-torch.log(u))).to(torch.float32)


def _is_the_references(device: torch.device) -> bool:
    return device.type == "cpu" or not has_float64(device)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros: int64's own shift would fill with the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA: Final = _signed(GAMMA)
_MULTIPLIER_1: Final = _signed(MULTIPLIER_1)
_MULTIPLIER_2: Final = _signed(MULTIPLIER_2)
