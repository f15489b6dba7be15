"""The drafter that is trained: a few of the target's own layers between its embedding and its head.

Owns which layers those are and what of it learns. The embedding and the head are the target's,
shared and frozen; the head is cut to ``head_tokens``.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specedge.distill.cut_head import CutHead
from specedge.errors import ModelUnusable
from specedge.tree.token_tree import IntArray


@dataclass(frozen=True, slots=True)
class StudentShape:
    """Which of the target's layers a drafter starts from, in their order."""

    layers: tuple[int, ...]

    @classmethod
    def spread(cls, num_layers: int, num_target_layers: int) -> "StudentShape":
        """The first layers, which read, and the last one, which writes: a residual stream passes
        without much harm from the ones to the other."""
        if not 1 <= num_layers <= num_target_layers:
            raise ModelUnusable(f"a drafter has 1 to {num_target_layers} layers, not {num_layers}")
        last = num_target_layers - 1
        return cls((*range(num_layers - 1), last))


class Student(nn.Module):
    """The drafter in training. ``backbone`` is a decoder of the target's own class without head;
    its embedding is the target's, frozen. ``learns_in_bf16``: products are bf16 where gradients
    are taken; weights and measurements are fp32 all the same."""

    def __init__(
        self,
        target: PreTrainedModel,
        shape: StudentShape,
        head_tokens: IntArray,
        *,
        learns_in_bf16: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.learns_in_bf16 = learns_in_bf16
        self.head_tokens = head_tokens
        self.backbone = cut_backbone(target, shape.layers)
        self.head = CutHead(target, head_tokens)
        for parameter in self.backbone.get_input_embeddings().parameters():
            parameter.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it computes: the target's."""
        device: torch.device = self.backbone.device
        return device

    def forward(self, token_ids: Tensor, rows: Tensor) -> Tensor:
        """Logits (m, v) float32 at the flat positions ``rows`` (m,) of ``token_ids`` (b, t) int64,
        padded at the end: attention is causal, so padding is seen by nobody."""
        narrow = self.learns_in_bf16 and torch.is_grad_enabled()
        with torch.autocast(token_ids.device.type, torch.bfloat16) if narrow else nullcontext():
            hidden = self.backbone(input_ids=token_ids, use_cache=False).last_hidden_state
            logits: Tensor = self.head(hidden.reshape(-1, hidden.shape[-1])[rows])
        return logits.float()

    def learned(self) -> dict[str, Tensor]:
        """What training changes, and what is stored: all but embedding and head."""
        return {
            name: parameter
            for name, parameter in self.backbone.named_parameters()
            if parameter.requires_grad
        }

    def load_learned(self, learned: dict[str, Tensor]) -> None:
        """Take over what ``learned`` gave. Raises ModelUnusable where names differ."""
        mine = self.learned()
        if mine.keys() != learned.keys():
            raise ModelUnusable("the checkpoint is of another drafter")
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(learned[name])


def cut_backbone(target: PreTrainedModel, layers: Sequence[int]) -> Any:
    """A decoder of copies of the target's ``layers``, with its embedding and final norm."""
    whole = target.get_decoder()
    if not isinstance(getattr(whole, "layers", None), nn.ModuleList):
        raise ModelUnusable(f"{type(whole).__name__} does not keep its layers in a list")
    kept = [whole.layers[number] for number in layers]
    everything, whole.layers = whole.layers, nn.ModuleList(kept)
    try:
        backbone = copy.deepcopy(whole)
    finally:
        whole.layers = everything
    for number, layer in enumerate(backbone.layers):
        _renumber(layer, number)
    backbone.config.num_hidden_layers = len(kept)
    if getattr(backbone.config, "layer_types", None):
        backbone.config.layer_types = [backbone.config.layer_types[number] for number in layers]
    return backbone


def _renumber(layer: nn.Module, number: int) -> None:
    """Families differ in what they call the attention that knows its layer's number."""
    numbered = [part for part in layer.modules() if hasattr(part, "layer_idx")]
    if not numbered:
        raise ModelUnusable(f"{type(layer).__name__} does not know its number among the layers")
    for part in numbered:
        part.layer_idx = number
