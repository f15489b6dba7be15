"""fp32 linear layers on a CPU that are quick for a few rows, where small trees are verified.

torch multiplies one row by streaming the weights once; from two rows on it repacks the weights at
every call, so that two rows cost nearly twice as much as one. On one thread, ``panels`` takes
weights that were packed once, which is quicker for any number of rows. On several threads oneDNN's
kernels for a few rows are the better part; such a layer holds its weights twice.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from specedge.engine.int8_rounding import rounded_to_int8

# Smaller layers stay in the processor's cache, where torch is quick enough.
FEWEST_PACKED_BYTES: Final = 256 << 10
# Where oneDNN beat torch on AVX2: 2 rows took 0.72 of torch's own time, 5 rows 0.78, 8 rows 0.98.
ONEDNN_ROWS: Final = range(2, 10)
# A model whose layers are larger than this is not held twice.
MOST_ONEDNN_BYTES: Final = 2 << 30


class PanelLinear(nn.Module):
    """An fp32 linear layer of ``weight`` (n, k) and ``bias`` on the CPU. No gradients; the weights
    must not change or move any more. Made while torch computes with several threads, or of few
    weights, it is torch's own."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else bias.detach()
        self._panels: _Panels | None = None
        self._plain = weight.detach()
        if weight.nbytes >= FEWEST_PACKED_BYTES and torch.get_num_threads() == 1:
            self._panels = _Panels(self._plain)
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
        self._panels = _IntegerPanels(rounded, scale)

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


def computes_in_int8(device: str) -> bool:
    """Whether a drafter's linear layers on ``device`` are quickest rounded to int8. Also where the
    CPU has bf16 arithmetic: torch's takes twice as long for a few rows."""
    return device == "cpu" and torch.get_num_threads() == 1


def quicken(model: nn.Module, *, may_round: bool = False) -> int:
    """Replace the fp32 linear layers of a model on the CPU by quicker ones; how many. On several
    threads, models too large to be held twice stay as they are, and all do without oneDNN.
    ``may_round``: on one thread, weights may become int8."""
    found = linear_layers(model, torch.float32)
    packs = torch.get_num_threads() == 1
    if not packs and not _can_be_held_twice([child.weight for _, _, child in found]):
        return 0
    with torch.no_grad():
        for parent, name, child in found:
            setattr(parent, name, _quick(child, packs=packs, may_round=may_round))
    return len(found)


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


def _quick(plain: nn.Linear, *, packs: bool, may_round: bool) -> nn.Module:
    if not packs:
        return OneDnnLinear(plain)
    return Int8Linear(plain) if may_round else PanelLinear(plain.weight, plain.bias)


class _Panels:
    """A weight (n, k) in panels, and their product. On one thread at a time. ``addresses``: of the
    panels, and the form that weights have there."""

    def __init__(self, weight: Tensor) -> None:
        # numba: only where there are such layers
        from specedge.engine import panel_layout, panels, weight_forms

        self._panels, self._form = weight_forms.packed(weight.contiguous().numpy())
        self._unpack = weight_forms.unpacked
        self.addresses = self._panels.ctypes.data, int(self._form)
        self._num_outputs, self._num_inputs = weight.shape
        self._num_panels = panel_layout.num_panels(self._num_outputs)
        self._num_filled = self._num_panels * panel_layout.PANEL_OUTPUTS
        self._product = panels.product(self._form)

    def weight(self) -> Tensor:
        shape = self._num_outputs, self._num_inputs
        return torch.from_numpy(self._unpack(self._panels, shape, self._form))

    def product(self, input: Tensor) -> Tensor:  # noqa: A002
        """input (…, k) · weightᵀ, fp32."""
        x = input.to(torch.float32).contiguous()
        out = torch.empty((*input.shape[:-1], self._num_filled))
        rows = input.numel() // self._num_inputs
        if rows:
            sizes = rows, self._num_inputs, self._num_panels
            self._product(x.data_ptr(), self.addresses[0], out.data_ptr(), *sizes)
        return out if self._num_filled == self._num_outputs else out[..., : self._num_outputs]


class _IntegerPanels:
    """An int8 weight (n, k) in panels with its outputs' ``scale``, and their product. On one thread
    at a time. ``addresses``: of the panels and the scale."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        from specedge.engine import integer_panels, panel_layout  # as above

        self._unpack = integer_panels.unpacked
        self._panels = integer_panels.packed(weight.numpy())
        self._num_outputs, self._num_inputs = weight.shape
        self._num_panels = len(self._panels)
        self._num_filled = self._num_panels * panel_layout.PANEL_OUTPUTS
        self.scale = torch.zeros(self._num_filled)
        self.scale[: self._num_outputs] = scale
        self.addresses = self._panels.ctypes.data, self.scale.data_ptr()
        self._num_rounded = self._num_inputs + self._num_inputs % 2
        self._round, self._multiply = integer_panels.rounding(), integer_panels.product()

    def weight(self) -> Tensor:
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
            self._multiply(*self.addresses, *row, out.data_ptr(), *sizes)
        return out if self._num_filled == self._num_outputs else out[..., : self._num_outputs]


def _can_be_held_twice(weights: list[Tensor]) -> bool:
    fits = sum(weight.nbytes for weight in weights) <= MOST_ONEDNN_BYTES
    return fits and torch.backends.mkldnn.is_available()
