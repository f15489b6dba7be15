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

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(…, in) → (…, out), fp32."""
        rows = input.numel() // self.in_features
        if not self._streams or rows > STREAMED_ROWS or torch.get_num_threads() > 1:
            return functional.linear(input, self.weight, self.bias)
        # Compiles on first use; a process without such layers never does.
        from specedge.engine import few_rows

        out = input.new_empty((*input.shape[:-1], self.out_features))
        flat = input.detach().reshape(rows, self.in_features).contiguous()
        weight = self.weight.detach().numpy()
        few_rows.product(flat.numpy(), weight, out.view(rows, self.out_features).numpy())
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


def quicken(model: nn.Module) -> int:
    """Replace the fp32 linear layers of a model on the CPU by quicker ones; how many. On several
    threads, models too large to be held twice stay as they are, and all do without oneDNN."""
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
            quick = StreamedLinear(child.weight, child.bias) if streams else PackedLinear(child)
            setattr(parent, name, quick)
    return len(found)


def _is_fp32_on_cpu(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _can_be_packed(weights: list[Tensor]) -> bool:
    fits = sum(weight.nbytes for weight in weights) <= MOST_PACKED_BYTES
    return fits and torch.backends.mkldnn.is_available()
