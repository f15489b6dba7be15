"""The target's head, cut to some tokens, with all that the target does to its logits.

Families scale their logits or cap them softly after the head, and no config key says so for all.
So the target's own forward is run, on hidden states that are there already.
"""

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from specedge.errors import ModelUnusable
from specedge.tree.token_tree import IntArray

CHECKED_TOKENS: Final = 8
TOLERANCE: Final = 1e-3  # of the largest logit


class CutHead(nn.Module):
    """Logits of ``head_tokens`` as ``target`` gives them. Frozen. Raises ModelUnusable where they
    are not the target's."""

    def __init__(self, target: PreTrainedModel, head_tokens: IntArray) -> None:
        super().__init__()
        rows = torch.from_numpy(head_tokens).long().to(target.device)
        head = target.get_output_embeddings()
        if head is None or getattr(head, "bias", None) is not None:
            raise ModelUnusable("the target's head is not a plain matrix")
        cut = nn.Linear(head.weight.shape[1], len(rows), bias=False, device="meta")
        cut.weight = nn.Parameter(head.weight.detach()[rows].clone(), requires_grad=False)
        self._target = _with_parts(target, {target.get_decoder(): _Passing(), head: cut})
        _check(self, target, rows)

    def forward(self, hidden: Tensor) -> Tensor:
        """(m, d) → (m, v)."""
        logits: Tensor = self._target(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return logits


class _Passing(nn.Module):
    """In the place of a decoder, of whichever kind: its input is its output."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


def _with_parts(target: PreTrainedModel, parts: dict[nn.Module, nn.Module]) -> PreTrainedModel:
    """A copy of ``target`` that shares all but ``parts``, which are its immediate children."""
    changed = copy.copy(target)
    changed._modules = {
        name: parts.get(child, child) if child is not None else None
        for name, child in target._modules.items()
    }
    if sum(child in parts for child in target.children()) != len(parts):
        raise ModelUnusable(f"{type(target).__name__} is not just a decoder and a head")
    return changed


@torch.no_grad()
def _check(head: CutHead, target: PreTrainedModel, rows: Tensor) -> None:
    vocab_size = target.get_input_embeddings().weight.shape[0]
    tokens = (torch.arange(CHECKED_TOKENS, device=target.device) * 7919 + 11)[None] % vocab_size
    wanted = target(input_ids=tokens, use_cache=False).logits[0, :, rows]
    hidden = target.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state[0]
    try:
        ours = head(hidden)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModelUnusable(f"the head of {target.config.model_type}: {error}") from error
    gap, largest = (ours - wanted).abs().max(), wanted.abs().max()
    if not bool(gap <= TOLERANCE * largest):
        raise ModelUnusable(
            f"{target.config.model_type} does more to its logits than a drafter of its parts: "
            f"they differ by {float(gap):.3g} of {float(largest):.3g}"
        )
