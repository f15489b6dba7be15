"""bf16 matrix products on CPUs that have no instructions for them.

There, torch multiplies bf16 matrices by a plain loop, six times slower than fp32 and with nothing
gained by batching rows. The same arithmetic is had from fp32: the product of two bf16 numbers is
exact in fp32, sums are kept in fp32 as the hardware does, and the result is rounded to bf16 once.
The price is memory: such a layer's weights are held in fp32, unless they are in panels, on one
thread.
"""

import torch
from torch import Tensor, nn

from specedge.engine.packed_linear import PanelLinear, linear_layers


class WideLinear(PanelLinear):
    """A bf16 linear layer that is computed in fp32; bf16 in, bf16 out, no gradients."""

    def __init__(self, narrow: nn.Linear) -> None:
        bias = None if narrow.bias is None else narrow.bias.float()
        super().__init__(narrow.weight.float(), bias, packs=torch.get_num_threads() == 1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(…, in) → (…, out), in the input's dtype."""
        return super().forward(input.float()).to(input.dtype)


def widen_if_slow(model: nn.Module) -> int:
    """Replace the bf16 linear layers of a model on a CPU without bf16 arithmetic; how many.

    Embeddings stay: looking up needs no products. A head tied to them gets weights of its own.
    """
    slow = linear_layers(model, torch.bfloat16)
    if not slow or _has_bf16_arithmetic():
        return 0
    for parent, name, child in slow:
        setattr(parent, name, WideLinear(child))
    return len(slow)


def _has_bf16_arithmetic() -> bool:
    # A torch without oneDNN, as on macOS, lacks the question as well.
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
