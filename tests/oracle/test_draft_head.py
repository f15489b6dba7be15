"""A drafter whose head speaks of some tokens only proposes what the whole one would, of those."""

import dataclasses

import numpy as np
import pytest
import torch

from specedge.engine.draft_head import DraftHead
from specedge.engine.torch_draft import TorchDrafter
from specedge.errors import ModelUnusable
from specedge.params import SamplingParams
from specedge.tree.token_tree import IntArray, TokenTree
from tests.oracle.tiny_models import (
    KV_BYTES,
    VOCAB_SIZE,
    build,
    loaded,
    plain_logits,
    random_tokens,
)

CHILDREN = 4


def narrowed(tokens: IntArray) -> TorchDrafter:
    """A drafter with only the head rows of ``tokens``, in that order."""
    model = build("llama")
    rows = model.lm_head.weight[torch.from_numpy(tokens).long()].detach()
    model.lm_head = torch.nn.Linear(rows.shape[1], len(tokens), bias=False)
    model.lm_head.weight = torch.nn.Parameter(rows.clone(), requires_grad=False)
    narrow = dataclasses.replace(loaded(model), head_tokens=tokens)
    return TorchDrafter(narrow, kv_bytes=KV_BYTES, num_slots=2, num_children=CHILDREN)


def test_its_children_are_the_whole_vocabularys_restricted_to_its_tokens() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.permutation(VOCAB_SIZE)[:40].astype(np.int32)
    committed = random_tokens(rng, 20)  # the context may well hold tokens that it cannot say
    session = narrowed(tokens).open(committed, SamplingParams(temperature=0.7))
    tree = TokenTree.from_parents([int(committed[-1]), 3, 4], [-1, 0, 0])
    texts = [committed, [*committed, 3], [*committed, 4]]

    root = session.expand(tree, np.array([0], dtype=np.int32))
    below = session.expand(tree, np.array([1, 2], dtype=np.int32))

    found = np.concatenate([root.token, below.token])
    scores = np.concatenate([root.logprob, below.logprob])
    for text, token, logprob in zip(texts, found, scores, strict=True):
        wanted = plain_logits(build("llama"), text)[tokens].astype(np.float64) / 0.7
        wanted -= np.log(np.exp(wanted).sum())
        best = np.argsort(-wanted, kind="stable")[:CHILDREN]
        np.testing.assert_array_equal(token, tokens[best])
        np.testing.assert_allclose(logprob, wanted[best], atol=1e-4)


def test_it_never_proposes_more_children_than_it_has_tokens() -> None:
    session = narrowed(np.array([7, 3], dtype=np.int32)).open(
        random_tokens(np.random.default_rng(2), 5), SamplingParams()
    )

    expansion = session.expand(TokenTree.root_only(9), np.zeros(1, dtype=np.int32))

    assert sorted(expansion.token[0].tolist()) == [3, 7]


@pytest.mark.parametrize("tokens", [[], [5, 5], [-1, 5], [5, VOCAB_SIZE]])
def test_a_list_that_cannot_be_a_heads_is_refused(tokens: list[int]) -> None:
    with pytest.raises(ModelUnusable):
        DraftHead(VOCAB_SIZE, np.array(tokens, dtype=np.int32))


def test_a_list_that_is_another_models_is_refused() -> None:
    whole = dataclasses.replace(loaded(build("llama")), head_tokens=np.arange(3, dtype=np.int32))

    with pytest.raises(ModelUnusable, match="3 tokens"):
        TorchDrafter(whole, kv_bytes=KV_BYTES)
