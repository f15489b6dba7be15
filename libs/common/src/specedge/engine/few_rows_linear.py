"""fp32 linear layers on a CPU that are quick for a few rows, where small trees are verified.

torch multiplies one row by streaming the weights once; from two rows on it repacks the weights at
every call, so that two rows cost nearly twice as much as one. On one thread, ``few_rows`` reads
each weight once for up to eight rows. On several threads oneDNN's kernels, which take weights that
were packed once, are the better part; such a layer holds its weights twice.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

# Smaller layers stay in the processor's cache, where torch is quick enough.
FEWEST_STREAMED_BYTES: Final = 256 << 10
STREAMED_ROWS: Final = 16
INT8_MOST: Final = 127
# Where oneDNN beat torch on AVX2: 2 rows took 0.72 of torch's own time, 5 rows 0.78, 8 rows 0.98.
PACKED_ROWS: Final = range(2, 10)
# A model whose layers are larger than this is not held twice.
MOST_PACKED_BYTES: Final = 2 << 30


class StreamedLinear(nn.Linear):
    """An fp32 linear layer of ``weight`` (n, k) and ``bias`` on the CPU. No gradients; the weights
    must not move any more. As many threads as torch has computed with so far are allowed: with
    more than one, it is torch's own."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self._streams = self.weight.nbytes >= FEWEST_STREAMED_BYTES
        if self._streams and torch.get_num_threads() == 1:
            _compile_for(self.weight)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(…, in) → (…, out), fp32."""
        if not self._streams or not _are_few(input):
            return functional.linear(input, self.weight, self.bias)
        out = _streamed(input, self.weight)
        return out if self.bias is None else out.add_(self.bias)


class Int8Linear(nn.Module):
    """A linear layer on the CPU whose weights are rounded to int8, each output with a scale of its
    own: for drafters, which need not be exact. A quarter of the memory is read, and a small model
    stays in the processor's cache, so that a target on the same machine has the memory to itself.
    Inputs and sums are fp32."""

    weight: Tensor
    scale: Tensor

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        exact = plain.weight.detach().float()
        scale = exact.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / INT8_MOST
        self.register_buffer("weight", (exact / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = None if plain.bias is None else plain.bias.detach()
        _compile_for(self.weight)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as nn.Linear's)
        """(…, in) → (…, out), fp32."""
        if not _are_few(input):
            return functional.linear(input, self.weight * self.scale[:, None], self.bias)
        out = _streamed(input, self.weight).mul_(self.scale)
        return out if self.bias is None else out.add_(self.bias)


class PackedLinear(nn.Linear):
    """An fp32 linear layer on the CPU with a second, packed copy of its weights. No gradients; the
    weights must not change any more."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        if plain.bias is not None:
            self.bias = plain.bias
        # Not a buffer: it is neither stored nor moved.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(
            plain.weight.detach(), PACKED_ROWS.start
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(…, in) → (…, out)."""
        if input.numel() // self.in_features in PACKED_ROWS:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                input, self._packed, self.bias, "none", [], ""
            )
            return packed
        return functional.linear(input, self.weight, self.bias)


def quicken(model: nn.Module, *, may_round: bool = False) -> int:
    """Replace the fp32 linear layers of a model on the CPU by quicker ones; how many. On several
    threads, models too large to be held twice stay as they are, and all do without oneDNN.
    ``may_round``: on one thread, weights may become int8."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _is_fp32_on_cpu(child.weight)
    ]
    streams = torch.get_num_threads() == 1
    if not streams and not _can_be_packed([child.weight for _, _, child in found]):
        return 0
    with torch.no_grad():
        for parent, name, child in found:
            setattr(parent, name, _quick(child, streams=streams, may_round=may_round))
    return len(found)


def _quick(plain: nn.Linear, *, streams: bool, may_round: bool) -> nn.Module:
    if not streams:
        return PackedLinear(plain)
    return Int8Linear(plain) if may_round else StreamedLinear(plain.weight, plain.bias)


def _are_few(input: Tensor) -> bool:  # noqa: A002
    rows = input.numel() // input.shape[-1]
    return rows <= STREAMED_ROWS and torch.get_num_threads() == 1


def _streamed(input: Tensor, weight: Tensor) -> Tensor:  # noqa: A002
    """input · weightᵀ, fp32."""
    from specedge.engine import few_rows  # numba: only where there are such layers

    out = input.new_empty((*input.shape[:-1], len(weight)))
    flat = input.detach().reshape(-1, input.shape[-1]).contiguous()
    few_rows.product(flat.numpy(), weight.detach().numpy(), out.view(-1, len(weight)).numpy())
    return out


def _compile_for(weight: Tensor) -> None:
    from specedge.engine import few_rows

    few_rows.compile_for(weight.detach().numpy())


def _is_fp32_on_cpu(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _can_be_packed(weights: list[Tensor]) -> bool:
    fits = sum(weight.nbytes for weight in weights) <= MOST_PACKED_BYTES
    return fits and torch.backends.mkldnn.is_available()
