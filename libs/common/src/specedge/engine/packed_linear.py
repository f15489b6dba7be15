"""fp32 linear layers on a CPU that are quick for a few rows, where small trees are verified.

torch multiplies one row by streaming the weights once; from two rows on it repacks the weights at
every call, so that two rows cost nearly twice as much as one. ``panels`` takes weights that were
packed once, which is quicker for any number of rows; a few rows are one thread's, a prompt's are
divided. On several threads a large model's layers are oneDNN's kernels for a few rows; such a layer
holds its weights twice.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from specedge.engine.divided_products import can_divide
from specedge.engine.int8_rounding import rounded_to_int8
from specedge.engine.packed_weights import FloatPanels, IntegerPanels

# Smaller layers stay in the processor's cache, where torch is quick enough.
FEWEST_PACKED_BYTES: Final = 256 << 10
# Where oneDNN beat torch on AVX2: 2 rows took 0.72 of torch's own time, 5 rows 0.78, 8 rows 0.98.
ONEDNN_ROWS: Final = range(2, 10)
# In panels, a model up to this is quicker on one thread, whose short pass is one compiled call: on
# several, each of torch's operations waits for all of them.
MOST_BYTES_ALONE: Final = 256 << 20
FEWEST_BYTES_A_WEIGHT: Final = 0.5
# A model whose layers are larger than this is not held twice.
MOST_ONEDNN_BYTES: Final = 2 << 30


class PanelLinear(nn.Module):
    """An fp32 linear layer of ``weight`` (n, k) and ``bias`` on the CPU. No gradients; the weights
    must not change or move any more. Unless it ``packs``, or of few weights, it is torch's own.
    ``whole``: each weight in four bytes, whatever fewer would hold it."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        packs: bool = True,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else bias.detach()
        self._panels: FloatPanels | None = None
        self._plain = weight.detach()
        if packs and weight.nbytes >= FEWEST_PACKED_BYTES:
            self._panels = FloatPanels(self._plain, whole=whole)
            del self._plain

    @property
    def weight(self) -> Tensor:
        """(n, k) fp32. Unpacked at every call: for who cuts the layer to size, not for products."""
        return self._plain if self._panels is None else self._panels.weight()

    @property
    def addresses(self) -> tuple[int, int] | None:
        """Of its panels, and the form that weights have there, for compiled code; as long as the
        layer lives. None: unpacked."""
        return None if self._panels is None else self._panels.addresses

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(…, in) → (…, out), fp32."""
        if self._panels is None:
            return functional.linear(input, self._plain, self.bias)
        out = self._panels.product(input)
        return out if self.bias is None else out.add_(self.bias)


class Int8Linear(nn.Module):
    """A linear layer on the CPU whose weights are rounded to int8, each output with a scale of its
    own, and its inputs to int16, each row by one: for drafters, which need not be exact. A quarter
    of the memory is read, a small model stays in the processor's cache, so that a target on the
    same machine has the memory to itself, and a product of a few rows takes half the time."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        rounded, scale = rounded_to_int8(plain.weight.detach())
        self.bias = None if plain.bias is None else plain.bias.detach()
        self._panels = IntegerPanels(rounded, scale)

    @property
    def weight(self) -> Tensor:
        """(n, k) int8, to be multiplied by ``scale`` (n,). Unpacked at every call."""
        return self._panels.weight()

    @property
    def scale(self) -> Tensor:
        """(n,) fp32."""
        return self._panels.scale[: self.out_features]

    @property
    def addresses(self) -> tuple[int, int]:
        """Of its panels and its scale, for compiled code; as long as the layer lives."""
        return self._panels.addresses

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as nn.Linear's)
        """(…, in) → (…, out), fp32."""
        out = self._panels.product(input)
        return out if self.bias is None else out.add_(self.bias)


class OneDnnLinear(nn.Linear):
    """An fp32 linear layer on the CPU with a second, packed copy of its weights. No gradients; the
    weights must not change any more."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight = plain.weight
        if plain.bias is not None:
            self.bias = plain.bias
        # Not a buffer: it is neither stored nor moved.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(
            plain.weight.detach(), ONEDNN_ROWS.start
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is nn.Linear's)
        """(…, in) → (…, out)."""
        if input.numel() // self.in_features in ONEDNN_ROWS:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                input, self._packed, self.bias, "none", [], ""
            )
            return packed
        return functional.linear(input, self.weight, self.bias)


def computes_in_int8(device: str, num_weights: int | None) -> bool:
    """Whether a drafter of so many weights (None: not known) on ``device`` is quickest with its
    linear layers rounded to int8. Also where the CPU has bf16 arithmetic: torch's takes twice as
    long for a few rows."""
    if device != "cpu":
        return False
    is_small = num_weights is not None and num_weights <= MOST_BYTES_ALONE
    return torch.get_num_threads() == 1 or (is_small and can_divide())


def quicken(model: nn.Module, *, may_round: bool = False, whole: bool = False) -> int:
    """Replace the fp32 linear layers of a model on the CPU by quicker ones; how many. Of a model
    that is large in panels, on several threads, they are oneDNN's, or, where they cannot be held
    twice, stay as they are. ``may_round``: weights in panels may become int8; ``whole``: they have
    four bytes each."""
    found = linear_layers(model, torch.float32)
    weights = [child.weight.detach() for _, _, child in found]
    packs = torch.get_num_threads() == 1 or _is_small(weights, may_round=may_round, whole=whole)
    if not packs and not _can_be_held_twice(weights):
        return 0
    with torch.no_grad():
        for parent, name, child in found:
            setattr(parent, name, _quick(child, packs=packs, may_round=may_round, whole=whole))
    return len(found)


def has_panels(model: nn.Module) -> bool:
    """Whether any of its layers is in panels."""
    return any(
        isinstance(layer, Int8Linear) or getattr(layer, "addresses", None) is not None
        for layer in model.modules()
    )


def linear_layers(model: nn.Module, dtype: torch.dtype) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Torch's own linear layers of that dtype on the CPU, each below its parent by its name there:
    where another is put in its place."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and child.weight.dtype == dtype
        and child.weight.device.type == "cpu"
    ]


def _quick(plain: nn.Linear, *, packs: bool, may_round: bool, whole: bool) -> nn.Module:
    if not packs:
        return OneDnnLinear(plain)
    if may_round:
        return Int8Linear(plain)
    return PanelLinear(plain.weight, plain.bias, whole=whole)


def _is_small(weights: list[Tensor], *, may_round: bool, whole: bool) -> bool:
    """Whether one thread streams them sooner than several do torch's operations, by the form of the
    first of them."""
    num_weights = sum(weight.numel() for weight in weights)
    if not num_weights or num_weights > MOST_BYTES_ALONE / FEWEST_BYTES_A_WEIGHT:
        return False
    if not can_divide():  # a prompt would be one thread's, too
        return False
    if may_round:
        return num_weights <= MOST_BYTES_ALONE
    # numba: only where there are such layers
    from specedge.engine import weight_forms

    panels, _ = weight_forms.packed(weights[0].contiguous().numpy(), whole=whole)
    return num_weights * panels.nbytes <= MOST_BYTES_ALONE * weights[0].numel()


def _can_be_held_twice(weights: list[Tensor]) -> bool:
    fits = sum(weight.nbytes for weight in weights) <= MOST_ONEDNN_BYTES
    return fits and torch.backends.mkldnn.is_available()
