"""Norms that became one operation: the same numbers, and where that is not so, the model's own."""

import pytest
import torch
from torch import nn

from specedge.engine.fused_norm import FusedRmsNorm, fuse_norms
from specedge.engine.torch_draft import TorchDrafter
from specedge.engine.tree_model import TreeModel
from tests.oracle.tiny_models import FAMILIES, KV_BYTES, VOCAB_SIZE, build, loaded

# Two norms a layer of four, and the last one; Qwen3 has two more in each layer's attention.
FUSED = {"llama": 9, "mistral": 9, "phi3": 9, "qwen3": 17}


def num_fused(model: nn.Module) -> int:
    return sum(isinstance(module, FusedRmsNorm) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_models_logits_are_the_same_to_the_last_bit(family: str) -> None:
    model = build(family)
    token_ids = torch.arange(40)[None] % VOCAB_SIZE
    with torch.inference_mode():
        before = model(input_ids=token_ids).logits
        fuse_norms(model)
        after = model(input_ids=token_ids).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", FUSED)
def test_all_norms_of_the_usual_formula_are_replaced(family: str) -> None:
    model = build(family)
    assert fuse_norms(model) == num_fused(model) == FUSED[family]
    assert fuse_norms(model) == 0, "there is nothing left to replace"


def test_norms_of_another_formula_stay() -> None:
    model = build("gemma2")  # it multiplies by one more than the weight
    assert fuse_norms(model, may_round=True) == num_fused(model) == 0


def test_norms_that_round_elsewhere_are_replaced_in_drafters_alone() -> None:
    model = build("llama").to(torch.bfloat16)  # it rounds before it multiplies, torch afterwards
    assert fuse_norms(model) == 0
    assert fuse_norms(model, may_round=True) == FUSED["llama"]


def test_norms_kept_in_another_dtype_stay() -> None:
    model = build("llama").to(torch.bfloat16)
    model.model.norm.float()
    assert fuse_norms(model, may_round=True) == FUSED["llama"] - 1


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_tree_model_has_them(is_exact: bool) -> None:
    model = build("qwen3").to(torch.bfloat16)
    TreeModel(model, num_slots=1, kv_bytes=KV_BYTES, is_exact=is_exact)
    assert num_fused(model) == (0 if is_exact else FUSED["qwen3"])


def test_a_drafter_need_not_be_exact() -> None:
    model = build("qwen3").to(torch.bfloat16)
    TorchDrafter(loaded(model), kv_bytes=KV_BYTES)
    assert num_fused(model) == FUSED["qwen3"]
