"""Models that tree attention cannot serve are refused at load, with a reason."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from specedge.engine.model_fit import context_limit
from specedge.engine.tree_model import TreeModel, self_check
from specedge.errors import ModelUnusable
from tests.oracle.tiny_models import KV_BYTES, build

SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make(kind: str, **more: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **{**SMALL, **more})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def serve(model: PreTrainedModel) -> None:
    self_check(TreeModel(model, num_slots=1, kv_bytes=KV_BYTES))


@pytest.mark.parametrize("kind", ["mamba", "recurrent_gemma"])
def test_recurrent_and_hybrid_models_are_refused(kind: str) -> None:
    with pytest.raises(ModelUnusable, match="recurrent state"):
        serve(make(kind))


def test_layers_of_an_unknown_kind_are_refused_by_name() -> None:
    with pytest.raises(ModelUnusable, match="chunked_attention"):
        serve(make("llama4_text", head_dim=8))


def test_attention_that_does_not_go_through_the_interface_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="attention interface"):
        serve(make("bloom"))


def test_a_model_whose_results_are_not_reproduced_is_refused() -> None:
    model = build("llama")
    # Positions that depend on the row, not on position_ids: no config tells of it.
    rotary = model.model.rotary_emb
    forward = LlamaRotaryEmbedding.forward
    rotary.forward = lambda x, position_ids: forward(rotary, x, torch.arange(x.shape[1])[None] * 3)

    with pytest.raises(ModelUnusable, match="does not reproduce llama"):
        serve(model)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), TypeError("no such keyword")])
def test_a_model_that_fails_under_tree_attention_alone_is_refused(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree_model = TreeModel(build("llama"), num_slots=1, kv_bytes=KV_BYTES)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(tree_model, "forward", fail)

    with pytest.raises(ModelUnusable, match=str(error)):
        self_check(tree_model)


def test_a_sound_model_passes_the_check_in_bf16_too() -> None:
    serve(build("llama").to(torch.bfloat16))


def longrope() -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
    }


def test_frequencies_that_follow_the_longest_row_limit_the_context_to_their_first_range() -> None:
    plain = AutoConfig.for_model("llama", **SMALL)
    dynamic = AutoConfig.for_model(
        "llama",
        **SMALL,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    )
    long = AutoConfig.for_model(
        "phi3", **SMALL, rope_parameters=longrope(), original_max_position_embeddings=64
    )
    scaled = AutoConfig.for_model(
        "llama", **SMALL, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    )

    limits = [context_limit(config) for config in (plain, dynamic, long, scaled)]

    assert limits == [256, 256, 64, 256]
