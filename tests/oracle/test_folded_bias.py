"""A bias is repeated for the query heads of a group only where a layer folds them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from specedge.engine import tree_attention
from specedge.engine.step_table import StepTable, View, chain_span, tree_span
from specedge.engine.tree_attention import FOLD_MAX_ROWS, _attend
from specedge.engine.tree_model import TreeModel
from specedge.tree.token_tree import TokenTree
from tests.oracle.random_trees import random_tree
from tests.oracle.tiny_models import KV_BYTES, build, random_tokens


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The groups for which a step's layers asked a bias to be repeated."""
    groups: list[int] = []
    folded = View.folded

    def note(view: View, group: int) -> torch.Tensor | None:
        groups.append(group)
        return folded(view, group)

    monkeypatch.setattr(View, "folded", note)
    return groups


def test_a_long_chunk_of_prefill_never_repeats_its_bias(asked: list[int]) -> None:
    rng = np.random.default_rng(1)
    tree_model = TreeModel(build("llama"), num_slots=1, kv_bytes=KV_BYTES)
    offset = tree_model.cache.offset(tree_model.cache.lease(400))

    with torch.inference_mode():
        for start, count in ((0, 10), (10, FOLD_MAX_ROWS + 1)):
            chunk = random_tokens(rng, count)
            tree_model.forward([chain_span(chunk, start=start, offset=offset, num_logits=0)])
        assert asked == []
        tree = random_tree(rng, 5, 6)
        start = 10 + FOLD_MAX_ROWS + 1
        tree_model.forward([tree_span(tree.token[:1], tree, start=start, offset=offset)])

    assert asked == [3] * 4


def test_no_attention_leaves_it_to_torch_to_group_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it groups them beside a bias in one way only, which keeps all scores at once."""
    grouped: list[bool] = []
    attend = functional.scaled_dot_product_attention

    def note(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **asked: Any) -> torch.Tensor:
        grouped.append(q.shape[1] != k.shape[1] or asked.get("enable_gqa", False))
        return attend(q, k, v, **asked)

    tree_model = TreeModel(build("llama"), num_slots=1, kv_bytes=KV_BYTES)
    offset = tree_model.cache.offset(tree_model.cache.lease(400))
    monkeypatch.setattr(functional, "scaled_dot_product_attention", note)
    with torch.inference_mode():
        for start, count in ((0, 10), (10, FOLD_MAX_ROWS + 1), (200, 1), (201, 9)):
            chunk = random_tokens(np.random.default_rng(1), count)
            tree_model.forward([chain_span(chunk, start=start, offset=offset, num_logits=0)])

    assert grouped == [False] * 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [2, FOLD_MAX_ROWS, FOLD_MAX_ROWS + 1, 700])
def test_on_a_gpu_no_attention_keeps_its_scores(rows: int) -> None:
    q, keys, values = (torch.randn(1, heads, 705, 64) for heads in (6, 2, 2))
    span = chain_span(np.ones(rows, dtype=np.int32), start=705 - rows, offset=0, num_logits=0)
    found = []
    for device, dtype, backend in (
        ("cpu", torch.float32, SDPBackend.MATH),
        ("cuda", torch.bfloat16, SDPBackend.EFFICIENT_ATTENTION),
    ):
        table = StepTable.build([span], dtype=dtype, device=torch.device(device))
        (view,) = table.views(None)
        given = (each.to(device, dtype) for each in (q[:, :, :rows], keys, values))
        with sdpa_kernel(backend):
            found.append(_attend(*given, view, 0.125).float().cpu())

    torch.testing.assert_close(found[1], found[0], atol=3e-2, rtol=3e-2)


def test_attention_that_plans_anew_for_every_number_of_keys_is_left_out() -> None:
    tree_attention.register()

    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_layers_that_differ_in_their_groups_ask_for_their_own(asked: list[int]) -> None:
    tree_model = TreeModel(build("gemma4"), num_slots=1, kv_bytes=KV_BYTES)
    offset = tree_model.cache.offset(tree_model.cache.lease(20))
    tree = random_tree(np.random.default_rng(1), 5, 6)

    with torch.inference_mode():
        tree_model.forward([tree_span(tree.token[:1], tree, start=0, offset=offset)])

    assert asked == [3, 6, 3, 6]


def test_a_repeated_bias_is_made_once_for_each_group() -> None:
    tree = TokenTree.from_parents(np.arange(3, dtype=np.int32), [-1, 0, 0])
    span = tree_span(tree.token[:1], tree, start=4, offset=0)
    table = StepTable.build([span], dtype=torch.float32, device=torch.device("cpu"))
    (view,) = table.views(None)
    assert view.bias is not None

    tripled = view.folded(3)

    assert tripled is not None
    assert torch.equal(tripled, torch.cat([view.bias] * 3))
    assert view.folded(3) is tripled
    assert view.folded(1) is view.bias
