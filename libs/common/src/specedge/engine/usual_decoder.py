"""Which models are decoders of the usual kind, whose short passes ``compiled_decoder`` computes.

By their modules' names and sizes, of which compiled code has to be sure: addresses tell neither.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from transformers import PreTrainedModel

from specedge.engine.attention_block import LANES
from specedge.engine.fused_norm import FusedRmsNorm
from specedge.engine.model_fit import ROW_DEPENDENT_ROPE, AttentionFacts
from specedge.engine.packed_linear import Int8Linear, PanelLinear
from specedge.engine.panel_layout import PANEL_OUTPUTS

Kind = Literal["integers", "floats"]

# A matrix' outputs fill its panels, so that one product's are the next one's inputs as they are.
WHOLE: Final = PANEL_OUTPUTS
_LAYER: Final = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION: Final = {"q_proj", "k_proj", "v_proj", "o_proj"}
_FEED_FORWARD: Final = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def is_usual(model: PreTrainedModel, facts: Sequence[AttentionFacts]) -> bool:
    """Whether ``model``, of whose layers ``facts`` are, looks like a decoder of the usual kind, all
    its matrices in panels of one kind. What it multiplies or caps besides does not show: its first
    results have to be compared with its own."""
    config = model.config.get_text_config()
    decoder: Any = model.get_decoder()
    rope = getattr(config, "rope_parameters", None) or {}
    if getattr(config, "hidden_act", "") != "silu" or _rope_type(rope) in ROW_DEPENDENT_ROPE:
        return False
    if not {"embed_tokens", "layers", "norm", "rotary_emb"} <= set(dict(decoder.named_children())):
        return False
    norms = [decoder.norm, *(norm for layer in decoder.layers for norm in _norms(layer))]
    return (
        all(_is_usual_layer(layer) for layer in decoder.layers)
        and len({_sizes(layer) for layer in decoder.layers}) == 1
        and all(_is_usual_attention(fact) for fact in facts)
        and len({fact.shape for fact in facts}) == 1
        and all(isinstance(norm, FusedRmsNorm) for norm in norms)
        and len({norm.eps for norm in norms}) == 1
        and all(norm.weight.dtype == torch.float32 for norm in norms)
        and kind_of(model.get_output_embeddings()) == kind_of(decoder.layers[0].self_attn.q_proj)
    )


def kind_of(matrix: object) -> Kind | None:
    """How a linear layer multiplies; None where compiled code could not."""
    if isinstance(matrix, Int8Linear) and matrix.bias is None and matrix.in_features % 2 == 0:
        return "integers"
    # Not one that multiplies what is of another dtype.
    if type(matrix) is PanelLinear and matrix.bias is None and matrix.addresses is not None:
        return "floats"
    return None


def _rope_type(rope: Any) -> str:
    return str(rope.get("rope_type", "default"))


def _norms(layer: Any) -> tuple[Any, Any]:
    return (
        getattr(layer, "input_layernorm", None),
        getattr(layer, "post_attention_layernorm", None),
    )


def _is_usual_layer(layer: Any) -> bool:
    if {name for name, _ in layer.named_children()} != _LAYER:
        return False
    attention, feed_forward = layer.self_attn, layer.mlp
    matrices: list[Any] = [getattr(attention, name, None) for name in sorted(_ATTENTION)]
    matrices += [getattr(feed_forward, f"{name}_proj", None) for name in ("gate", "up", "down")]
    kinds = {kind_of(matrix) for matrix in matrices}
    return (
        {name for name, _ in attention.named_children()} == _ATTENTION
        and {name for name, _ in feed_forward.named_children()} <= _FEED_FORWARD
        and len(kinds) == 1
        and None not in kinds
        and all(matrix.out_features % WHOLE == 0 for matrix in matrices)
    )


def _sizes(layer: Any) -> tuple[object, ...]:
    """Of its matrices, and their kind."""
    attention, feed_forward = layer.self_attn, layer.mlp
    matrices = (
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        feed_forward.gate_proj,
        feed_forward.up_proj,
        feed_forward.down_proj,
    )
    sizes = [size for matrix in matrices for size in (matrix.in_features, matrix.out_features)]
    return kind_of(attention.q_proj), *sizes


def _is_usual_attention(fact: AttentionFacts) -> bool:
    shape = fact.shape
    keys, values = (shape.key_heads, shape.key_dim), (shape.value_heads, shape.value_dim)
    return fact.sliding_window is None and keys == values and shape.key_dim % LANES == 0
