"""Matrix products of a few rows on a CPU.

torch multiplies one row by streaming the weights once. From two rows on it repacks the weights for
its matrix kernel at every call, so that two rows cost nearly twice as much as one: just the range
in which small trees are verified. oneDNN's kernels take weights that were packed once. The price is
memory: such a layer holds its weights twice.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

# Measured on AVX2 with one thread, over the layers of a 135M model: 2 rows 0.72 of torch's own
# time, 3 rows 0.65, 5 rows 0.78, 8 rows 0.98.
FEWEST_ROWS: Final = 2
MOST_ROWS: Final = 9
# A model whose layers are larger than this is not held twice.
MOST_BYTES: Final = 2 << 30


class PackedLinear(nn.Linear):
    """An fp32 linear layer on the CPU with a second, packed copy of its weights. No gradients; the
    weights must not change any more."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        if plain.bias is not None:
            self.bias = plain.bias
        # Not a buffer: it is neither stored nor moved.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), FEWEST_ROWS)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(…, in) → (…, out)."""
        rows = input.numel() // self.in_features
        if FEWEST_ROWS <= rows <= MOST_ROWS:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                input, self._packed, self.bias, "none", [], ""
            )
            return packed
        return functional.linear(input, self.weight, self.bias)


def pack_if_small(model: nn.Module) -> int:
    """Replace the fp32 linear layers of a model on the CPU, unless they are too large to be held
    twice, or oneDNN is missing; how many."""
    if not torch.backends.mkldnn.is_available():
        return 0
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _is_packable(child.weight)
    ]
    if sum(child.weight.nbytes for _, _, child in found) > MOST_BYTES:
        return 0
    with torch.no_grad():
        for parent, name, child in found:
            setattr(parent, name, PackedLinear(child))
    return len(found)


def _is_packable(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"
