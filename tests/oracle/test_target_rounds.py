"""The target engine on tiny models: what many rounds on one slot generate, and the probabilities
that it tells of them."""

import numpy as np
import pytest

from specedge.engine.ports import Choosing, StepItem
from specedge.engine.row_allocator import MIN_BLOCK_ROWS
from specedge.params import SamplingParams
from specedge.tree.token_tree import FloatArray, IntArray, TokenTree
from tests.oracle.random_trees import random_tree
from tests.oracle.tiny_models import VOCAB_SIZE, build, plain_logits, random_tokens, target


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_text_past_a_slots_first_block_of_rows_is_the_plain_decoders(family: str) -> None:
    plain, engine = build(family), target(family)
    prompt = random_tokens(np.random.default_rng(1), MIN_BLOCK_ROWS - 12)
    text = prompt.tolist()
    for _ in range(24):
        text.append(int(plain_logits(plain, text).argmax()))
    slot = engine.lease(len(prompt))
    first_block = engine.kv_use().bytes_held
    engine.step([StepItem(slot, 0, prompt[:-1])])

    committed = prompt.tolist()
    while len(committed) < len(text):
        now = np.array(committed, dtype=np.int32)
        root = TokenTree.root_only(committed[-1])
        choosing = Choosing(SamplingParams(), now, len(prompt))
        (found,) = engine.step([StepItem(slot, len(now) - 1, now[-1:], root, choosing)])
        assert found is not None
        committed.append(int(found.choice[0]))

    assert engine.kv_use().bytes_held > first_block, "its slot has grown"
    assert committed == text


@pytest.mark.parametrize("num_asked", [1, 2], ids=["alone", "beside another"])
def test_log_probabilities_with_a_logit_bias_and_min_tokens_equal_those_without(
    num_asked: int,
) -> None:
    engine = target("qwen3")
    prompt = random_tokens(np.random.default_rng(2), 12)
    tree = random_tree(np.random.default_rng(3), int(prompt[-1]), 4)
    changed = SamplingParams(logit_bias=((5, 30.0), (17, -100.0)), min_tokens=9)

    def logprobs(params: SamplingParams) -> tuple[FloatArray, IntArray]:
        """(n, V) at every node; its choices."""
        choosing = Choosing(params, prompt, len(prompt), frozenset({2}), VOCAB_SIZE)
        items = [StepItem(engine.lease(20), 0, prompt, tree, choosing) for _ in range(num_asked)]
        found = engine.step(items)[-1]
        for item in items:
            engine.release(item.slot)
        assert found is not None and found.logprobs is not None
        told = found.logprobs
        every = np.empty((len(tree), VOCAB_SIZE), dtype=np.float32)
        np.put_along_axis(every, told.token.astype(np.int64), told.logprob, axis=1)
        np.testing.assert_array_equal(every[np.arange(len(tree)), found.choice], told.chosen)
        return every, found.choice

    plain, plain_choice = logprobs(SamplingParams())
    steered, steered_choice = logprobs(changed)

    np.testing.assert_allclose(steered, plain, atol=1e-5)
    assert (steered_choice == 5).all() and not (plain_choice == 5).all(), "the bias had its effect"
