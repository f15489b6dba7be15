"""A bias is repeated for the query heads of a group only where a layer folds them."""

import numpy as np
import pytest
import torch

from specedge.engine.step_table import StepTable, View, chain_span, tree_span
from specedge.engine.tree_attention import FOLD_MAX_ROWS
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
