"""The engine's logits are those of a plain forward over each node's own path, for every family."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from specedge.engine.ports import Choosing, StepItem
from specedge.engine.step_table import Span, chain_span, tree_span
from specedge.engine.torch_target import TorchTarget
from specedge.engine.tree_attention import SCORED_ROWS
from specedge.engine.tree_model import TreeModel
from specedge.errors import Busy, ContextTooLong
from specedge.ids import Slot
from specedge.params import SamplingParams
from specedge.tree.token_tree import FloatArray, IntArray, TokenTree
from tests.oracle.random_trees import path_to, random_tree
from tests.oracle.tiny_models import (
    FAMILIES,
    KV_BYTES,
    VOCAB_SIZE,
    WINDOW,
    build,
    loaded,
    plain_logits,
    random_tokens,
    target,
)

TOLERANCE = 1e-4
NO_PATH = np.empty(0, dtype=np.int32)


class Session:
    """A slot of a TreeModel with its committed tokens, all but the last of them computed."""

    def __init__(self, tree_model: TreeModel, committed: IntArray, chunk: int = 1000) -> None:
        self.tree_model, self.committed = tree_model, committed
        self.slot: Slot = tree_model.cache.lease(1)
        for start in range(0, len(committed) - 1, chunk):
            tree_model.forward([self.prefill(start, min(start + chunk, len(committed) - 1))])

    def prefill(self, start: int, stop: int) -> Span:
        self.tree_model.cache.grow(self.slot, stop, start)
        offset = self.tree_model.cache.offset(self.slot)
        return chain_span(self.committed[start:stop], start=start, offset=offset, num_logits=0)

    def span(self, tree: TokenTree, chain_len: int = 1) -> Span:
        start = len(self.committed) - chain_len
        self.tree_model.cache.grow(self.slot, start + chain_len + tree.num_drafted, start)
        offset = self.tree_model.cache.offset(self.slot)
        return tree_span(self.committed[start:], tree, start=start, offset=offset)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plain(family: str) -> PreTrainedModel:
    return build(family)


@pytest.fixture
def tree_model(family: str) -> TreeModel:
    return TreeModel(build(family), num_slots=16, kv_bytes=KV_BYTES)


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    with torch.inference_mode():
        yield


def wanted_logits(plain: PreTrainedModel, committed: IntArray, tree: TokenTree) -> FloatArray:
    """(n, V): a plain forward over every node's path."""
    rows = [
        plain_logits(plain, np.concatenate([committed, tree.token[path_to(tree, node)]]))
        for node in range(len(tree))
    ]
    return np.stack(rows)


def assert_same_logits(ours: torch.Tensor, wanted: FloatArray) -> None:
    np.testing.assert_allclose(ours.numpy(), wanted, atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(ours.numpy().argmax(axis=1), wanted.argmax(axis=1))


def test_logits_at_every_node_of_many_sessions_are_those_of_a_plain_forward_over_its_path(
    plain: PreTrainedModel, tree_model: TreeModel
) -> None:
    rng = np.random.default_rng(1)
    lengths_and_nodes = [(1, 5), (2, 0), (WINDOW - 1, 7), (40, 12), (3, 1), (133, 9)]
    sessions = [Session(tree_model, random_tokens(rng, length)) for length, _ in lengths_and_nodes]
    trees = [
        random_tree(rng, int(session.committed[-1]), nodes)
        for session, (_, nodes) in zip(sessions, lengths_and_nodes, strict=True)
    ]
    prefilling = Session(tree_model, random_tokens(rng, 1))
    prefilling.committed = random_tokens(rng, 30)

    spans = [session.span(tree) for session, tree in zip(sessions, trees, strict=True)]
    spans.insert(2, prefilling.prefill(0, 29))
    ours = tree_model.forward(spans)

    wanted = [
        wanted_logits(plain, session.committed, tree)
        for session, tree in zip(sessions, trees, strict=True)
    ]
    assert_same_logits(ours, np.concatenate(wanted))
    tree = random_tree(rng, int(prefilling.committed[-1]), 4)
    ours = tree_model.forward([prefilling.span(tree)])
    assert_same_logits(ours, wanted_logits(plain, prefilling.committed, tree))


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_a_context_prefilled_in_chunks_gives_the_logits_of_one_prefilled_whole(
    plain: PreTrainedModel, tree_model: TreeModel, chunk: int
) -> None:
    rng = np.random.default_rng(2)
    session = Session(tree_model, random_tokens(rng, 50), chunk)
    tree = random_tree(rng, int(session.committed[-1]), 6)

    ours = tree_model.forward([session.span(tree)])

    assert_same_logits(ours, wanted_logits(plain, session.committed, tree))


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"], indirect=True)
@pytest.mark.parametrize("start", [0, 20])
def test_no_attention_keeps_the_scores_of_a_long_chunk_at_once(
    tree_model: TreeModel, start: int
) -> None:
    """They would take gigabytes of a GPU's memory."""
    rng, rows = np.random.default_rng(6), SCORED_ROWS + 50
    session = Session(tree_model, random_tokens(rng, start + rows), chunk=start or rows + 1000)
    sizes: list[int] = []

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    span = session.prefill(start, start + rows)
    with Noting():
        tree_model.forward([span])

    num_heads = tree_model.model.config.num_attention_heads
    assert max(sizes) <= num_heads * SCORED_ROWS * (start + rows + 1)


def test_a_chain_of_several_tokens_before_the_tree_is_computed_in_the_same_step(
    plain: PreTrainedModel, tree_model: TreeModel
) -> None:
    rng = np.random.default_rng(3)
    session = Session(tree_model, random_tokens(rng, 20))
    session.committed = np.concatenate([session.committed[:19], random_tokens(rng, 12)])
    tree = random_tree(rng, int(session.committed[-1]), 8)

    ours = tree_model.forward([session.span(tree, chain_len=12)])

    assert_same_logits(ours, wanted_logits(plain, session.committed, tree))


def test_rounds_that_keep_paths_go_on_as_if_the_context_had_been_computed_afresh(
    plain: PreTrainedModel, tree_model: TreeModel
) -> None:
    rng = np.random.default_rng(4)
    session = Session(tree_model, random_tokens(rng, 60))
    for _ in range(6):
        tree = random_tree(rng, int(session.committed[-1]), 10)
        ours = tree_model.forward([session.span(tree)])
        assert_same_logits(ours, wanted_logits(plain, session.committed, tree))
        path = path_to(tree, int(rng.integers(0, len(tree))))
        tree_model.cache.move_path(session.slot, len(session.committed), path)
        committed = [session.committed, tree.token[path], random_tokens(rng, 1)]
        session.committed = np.concatenate(committed)

    tree = TokenTree.root_only(int(session.committed[-1]))
    ours = tree_model.forward([session.span(tree)])
    assert_same_logits(ours, wanted_logits(plain, session.committed, tree))


def test_a_slot_that_grows_amid_others_keeps_its_rows_and_theirs(
    plain: PreTrainedModel, tree_model: TreeModel
) -> None:
    rng = np.random.default_rng(5)
    short = Session(tree_model, random_tokens(rng, 60))
    neighbour = Session(tree_model, random_tokens(rng, 61))
    before = tree_model.cache.capacity(short.slot)
    tree = random_tree(rng, int(short.committed[-1]), 20)

    ours = tree_model.forward([short.span(tree)])

    assert tree_model.cache.capacity(short.slot) == 2 * before
    assert_same_logits(ours, wanted_logits(plain, short.committed, tree))
    tree = random_tree(rng, int(neighbour.committed[-1]), 3)
    ours = tree_model.forward([neighbour.span(tree)])
    assert_same_logits(ours, wanted_logits(plain, neighbour.committed, tree))


def greedy(committed: IntArray, prompt_len: int) -> Choosing:
    return Choosing(SamplingParams(), committed, prompt_len)


def test_the_target_decodes_the_same_greedy_text_with_any_tree(family: str) -> None:
    plain, engine = build(family), target(family)
    rng = np.random.default_rng(6)
    prompt = random_tokens(rng, 25)
    text = list(prompt)
    for _ in range(24):
        text.append(int(plain_logits(plain, text).argmax()))
    slot = engine.lease(10)
    engine.step([StepItem(slot, 0, prompt[:-1])])

    committed = list(prompt)
    while len(committed) < len(text):
        committed += round_on(engine, slot, committed, len(prompt), text, rng)

    assert committed[: len(text)] == text


def round_on(
    engine: TorchTarget,
    slot: Slot,
    committed: list[int],
    prompt_len: int,
    text: list[int],
    rng: np.random.Generator,
) -> list[int]:
    """One round with a tree of which one branch is right for a while; what it commits."""
    right = text[len(committed) :][: int(rng.integers(0, 4))]
    parent = [-1, 0, *range(2, 2 + len(right) - 1)] if right else [-1]
    token = [committed[-1], *right]
    wrong = random_tree(rng, committed[-1], 5)
    offset = len(token) - 1
    parent += [0 if p == 0 else int(p) + offset for p in wrong.parent[1:]]
    parent[1 : 1 + len(right)] = range(len(right))
    tree = TokenTree.from_parents([*token, *wrong.token[1:]], parent)
    array = np.array(committed, dtype=np.int32)
    item = StepItem(slot, len(committed) - 1, array[-1:], tree, greedy(array, prompt_len))
    (found,) = engine.step([item])
    assert found is not None
    path, node = [], 0
    while node < len(right) and int(found.choice[node]) == right[node]:
        node += 1
        path.append(node)
    engine.keep(slot, len(committed), np.array(path, dtype=np.int32))
    return [*right[: len(path)], int(found.choice[node])]


def test_copied_rows_serve_another_session_with_the_same_prefix() -> None:
    plain, engine = build("llama"), target("llama")
    rng = np.random.default_rng(7)
    prompt = random_tokens(rng, 80)
    source, copy = engine.lease(80), engine.lease(1)
    engine.step([StepItem(source, 0, prompt[:70])])
    engine.copy_rows(source, copy, 70)
    engine.release(source)

    tree = TokenTree.root_only(int(prompt[-1]))
    (found,) = engine.step([StepItem(copy, 70, prompt[70:], tree, greedy(prompt, 80))])

    assert found is not None
    assert found.choice[0] == plain_logits(plain, prompt).argmax()


def test_a_step_that_cannot_grow_a_slot_is_refused_and_the_session_goes_on() -> None:
    row_bytes = target("llama").kv_use().bytes_held
    assert row_bytes == 0
    engine = target("llama", kv_bytes=128 * 2 * 4 * 2 * 8 * 4)
    rng = np.random.default_rng(8)
    prompt = random_tokens(rng, 64)
    slot, neighbour = engine.lease(64), engine.lease(64)
    engine.step([StepItem(slot, 0, prompt[:-1])])
    tree = random_tree(rng, int(prompt[-1]), 10)

    with pytest.raises(Busy):
        engine.step([StepItem(slot, 63, prompt[-1:], tree, greedy(prompt, 64))])
    root = TokenTree.root_only(int(prompt[-1]))
    (found,) = engine.step([StepItem(slot, 63, prompt[-1:], root, greedy(prompt, 64))])

    assert found is not None
    assert found.choice[0] == plain_logits(build("llama"), prompt).argmax()
    engine.release(neighbour)
    assert engine.kv_use().slots_used == 1


def test_rows_beyond_the_models_positions_are_refused() -> None:
    engine = TorchTarget(loaded(build("llama"), 32), num_slots=2, kv_bytes=KV_BYTES)
    slot = engine.lease(32)

    with pytest.raises(ContextTooLong):
        engine.step([StepItem(slot, 0, random_tokens(np.random.default_rng(9), 33))])


def test_a_tree_at_the_last_position_may_be_as_wide_as_it_likes_but_not_deeper() -> None:
    engine = TorchTarget(loaded(build("llama"), 32), num_slots=2, kv_bytes=KV_BYTES)
    prompt = random_tokens(np.random.default_rng(12), 31)
    slot = engine.lease(32)
    wide = TokenTree.from_parents([int(prompt[-1]), *range(10, 22)], [-1, *[0] * 12])
    deep = TokenTree.from_parents([int(prompt[-1]), 10, 11], [-1, 0, 1])

    (found,) = engine.step([StepItem(slot, 0, prompt, wide, greedy(prompt, 31))])

    assert found is not None and len(found.choice) == 13
    with pytest.raises(ContextTooLong):
        engine.step([StepItem(slot, 30, prompt[-1:], deep, greedy(prompt, 31))])


def test_logprobs_are_those_of_the_models_own_distribution() -> None:
    plain, engine = build("qwen3"), target("qwen3")
    prompt = random_tokens(np.random.default_rng(10), 12)
    params = SamplingParams(temperature=0.5, top_k=3, seed=5)
    choosing = Choosing(params, prompt, len(prompt), num_logprobs=VOCAB_SIZE)
    tree = random_tree(np.random.default_rng(11), int(prompt[-1]), 4)

    (found,) = engine.step([StepItem(engine.lease(20), 0, prompt, tree, choosing)])

    assert found is not None and found.logprobs is not None
    wanted = wanted_logits(plain, prompt, tree).astype(np.float64)
    wanted -= np.log(np.exp(wanted).sum(axis=1, keepdims=True))
    ours = np.empty_like(wanted)
    np.put_along_axis(ours, found.logprobs.token.astype(np.int64), found.logprobs.logprob, axis=1)
    np.testing.assert_allclose(ours, wanted, atol=TOLERANCE)
    assert (np.diff(found.logprobs.logprob, axis=1) <= 0).all()
    np.testing.assert_allclose(
        found.logprobs.chosen, wanted[np.arange(len(tree)), found.choice], atol=TOLERANCE
    )
