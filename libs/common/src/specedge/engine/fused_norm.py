"""RMS norms as one operation instead of six: a small model's pass on a GPU, or of a few rows on a
CPU, takes about as long as it has operations.

A norm is replaced where torch's own gives the same numbers; which formula a family has, it says
itself when it is tried.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

# Rows of which a norm is tried, and how far apart values are where rounding is no matter.
TRIED_ROWS: Final = (1, 7)
ROUNDING: Final = 1e-2


class FusedRmsNorm(nn.Module):
    """``weight`` (n,) times the input over its root mean square, along the last dimension."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, n) → (…, n), in the input's dtype."""
        return functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.eps)


def fuse_norms(model: PreTrainedModel, *, may_round: bool = False) -> int:
    """Replace the RMS norms of ``model`` that torch's own equals to the last bit (``may_round``: to
    within the dtype's rounding); how many. Others stay as they are."""
    found = [
        (parent, name, fused)
        for parent in model.modules()
        for name, child in parent.named_children()
        if (fused := _fused(child)) is not None
        and fused.weight.dtype == model.dtype  # another one is that of what follows, too
        and _is_same(child, fused, may_round=may_round)
    ]
    for parent, name, fused in found:
        setattr(parent, name, fused)
    return len(found)


def _fused(plain: nn.Module) -> FusedRmsNorm | None:
    """What might stand for it; None for what is no such norm by its looks."""
    eps = getattr(plain, "variance_epsilon", getattr(plain, "eps", None))
    parameters = dict(plain.named_parameters())
    is_norm = type(plain).__name__.endswith("RMSNorm") and set(parameters) == {"weight"}
    if not is_norm or not isinstance(eps, float) or isinstance(plain, nn.RMSNorm):
        return None
    weight = parameters["weight"]
    return FusedRmsNorm(weight, eps) if weight.dim() == 1 else None


def _is_same(plain: nn.Module, fused: FusedRmsNorm, *, may_round: bool) -> bool:
    weight = fused.weight
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for rows in TRIED_ROWS:
            tried = torch.randn((1, rows, len(weight)), generator=generator).to(weight)
            ours, wanted = fused(tried), plain(tried)
            if torch.equal(ours, wanted):
                continue
            if not may_round or not torch.allclose(ours, wanted, rtol=ROUNDING, atol=ROUNDING):
                return False
    return True
