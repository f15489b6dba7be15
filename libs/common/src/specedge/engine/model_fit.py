"""Whether a loaded model can be served by tree attention, and within which limits.

Owns the reasons for refusing a model. Looks at its config, at what its layers ask of their
attention, and (in ``self_check`` of tree_model) at whether the results are the model's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from specedge.engine.kv_cache import LayerShape
from specedge.errors import ModelUnusable

PROBE_NAME: Final = "specedge_probe"
SERVED_LAYER_TYPES: Final = frozenset({"full_attention", "sliding_attention"})
# Rotary kinds whose frequencies follow the longest position of a row. A row here holds many
# sessions, so they must never leave the range in which the frequencies are the original ones.
ROW_DEPENDENT_ROPE: Final = frozenset({"dynamic", "longrope"})
# Asked of the attention by models that bend the scores in ways this engine does not know.
REFUSED_KEYWORDS: Final = ("position_bias", "alibi", "block_mask")


@dataclass(frozen=True, slots=True)
class AttentionFacts:
    """What one layer asked of its attention in a probing pass."""

    shape: LayerShape
    sliding_window: int | None


def context_limit(config: Any) -> int:
    """How many positions the model can serve in this engine."""
    limit = int(getattr(config, "max_position_embeddings", None) or 2**31 - 1)
    for rope in _rope_parameters(config):
        if rope.get("rope_type") in ROW_DEPENDENT_ROPE:
            limit = min(limit, int(rope.get("original_max_position_embeddings") or limit))
    return limit


def check_config(model: PreTrainedModel) -> None:
    """Raise ModelUnusable for recurrent and hybrid models and unknown kinds of attention."""
    config = model.config.get_text_config()
    name = config.model_type
    if getattr(model, "_is_stateful", False):
        raise ModelUnusable(f"{name} keeps a recurrent state, which a drafted tree cannot share")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelUnusable(f"{name} is an encoder-decoder model; a causal one is needed")
    unknown = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYER_TYPES
    if unknown:
        raise ModelUnusable(f"{name} has layers of kind {', '.join(sorted(unknown))}")
    if getattr(config, "use_bidirectional_attention", False):
        raise ModelUnusable(f"{name} attends in both directions")


def probe(model: PreTrainedModel) -> list[AttentionFacts]:
    """Forward two tokens and note what each layer asks. Raises ModelUnusable on a misfit."""
    config = model.config.get_text_config()
    found: dict[int, AttentionFacts] = {}
    tokens = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with attention(model, PROBE_NAME), torch.inference_mode():
        try:
            model(input_ids=tokens, use_cache=False, attention_probe=found)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelUnusable(
                f"{config.model_type} cannot run in this engine: {error}"
            ) from error
    layers = int(config.num_hidden_layers)
    if sorted(found) != list(range(layers)):
        raise ModelUnusable(
            f"{config.model_type} runs {len(found)} of {layers} layers through transformers' "
            "attention interface; tree attention needs all"
        )
    facts = [found[layer] for layer in range(layers)]
    _check_windows(config, facts)
    return facts


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run ``model`` with another attention implementation for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _probe_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    sliding_window: int | None = None,
    attention_probe: dict[int, AttentionFacts] | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    if attention_probe is None:
        raise ModelUnusable("the model does not hand keyword arguments on to its attention layers")
    for keyword in REFUSED_KEYWORDS:
        if asked.get(keyword) is not None:
            raise ModelUnusable(f"the model asks its attention for {keyword}")
    shape = LayerShape(key.shape[1], key.shape[3], value.shape[1], value.shape[3])
    layer = int(module.layer_idx)
    attention_probe[layer] = AttentionFacts(shape, sliding_window)
    output = query.new_zeros((1, query.shape[2], query.shape[1], value.shape[3]))
    return output, None


def _check_windows(config: Any, facts: Sequence[AttentionFacts]) -> None:
    """A sliding layer must say its window to its attention, or trees would see too much."""
    kinds = getattr(config, "layer_types", None) or ()
    for layer, (kind, fact) in enumerate(zip(kinds, facts, strict=False)):
        if kind == "sliding_attention" and fact.sliding_window is None:
            raise ModelUnusable(f"layer {layer} of {config.model_type} hides its sliding window")


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """Each set of rotary parameters; some models have one per kind of layer."""
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return []
    if "rope_type" in rope:
        return [rope]
    return [part for part in rope.values() if isinstance(part, dict)]


AttentionInterface.register(PROBE_NAME, _probe_attention)
