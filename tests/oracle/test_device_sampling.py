"""The device sampler equals the numpy reference: to the bit on the CPU."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from specedge.engine.device_noise import device_gumbel, device_hash, gumbel_rows
from specedge.engine.device_rules import changes_nothing, process_rows
from specedge.engine.ports import Choosing
from specedge.engine.sampling import choose_nodes
from specedge.params import SamplingParams
from specedge.sampling.noise import gumbel, hash_u64
from specedge.sampling.rules import choose, process_logits
from specedge.tree.token_tree import FloatArray, IntArray, TokenTree
from tests.oracle.random_trees import path_to, random_tree
from tests.oracle.tiny_models import random_tokens

VOCAB_SIZE = 3000  # more than the head that top-p looks at first
CPU = torch.device("cpu")
PENALTIES = SamplingParams(repetition_penalty=1.3, frequency_penalty=0.37, presence_penalty=0.21)

PARAMS = {
    "greedy": SamplingParams(),
    "penalties": PENALTIES,
    "bias": SamplingParams(logit_bias=((5, 30.0), (17, -100.0))),
    "min_tokens": SamplingParams(min_tokens=14),
    "temperature": SamplingParams(temperature=0.8, seed=2**64 - 1),
    "hot": SamplingParams(temperature=5.0, seed=3),
    "nearly cold": SamplingParams(temperature=1e-9, seed=3),
    "top_k": SamplingParams(temperature=0.7, top_k=20, seed=4),
    "top_k beyond the vocabulary": SamplingParams(temperature=0.7, top_k=5000, seed=4),
    "top_p": SamplingParams(temperature=0.9, top_p=0.9, seed=5),
    "top_p beyond the head": SamplingParams(temperature=20.0, top_p=0.95, seed=5),
    "top_p of nothing": SamplingParams(temperature=0.9, top_p=0.0, seed=5),
    "min_p": SamplingParams(temperature=1.0, min_p=0.05, seed=6),
    "all": replace(
        PENALTIES,
        temperature=1.1,
        top_k=40,
        top_p=0.93,
        min_p=0.02,
        logit_bias=((9, 2.5),),
        min_tokens=13,
        seed=7,
    ),
}


def rows_for(tree: TokenTree, rng: np.random.Generator, *, with_ties: bool) -> FloatArray:
    logits = rng.normal(0, 4, size=(len(tree), VOCAB_SIZE)).astype(np.float32)
    return np.round(logits, 1) if with_ties else logits


def reference(
    logits: FloatArray, tree: TokenTree, choosing: Choosing
) -> tuple[FloatArray, IntArray]:
    """Processed logits (n, V) and choices (n,), one node after another."""
    processed, chosen = [], []
    for node in range(len(tree)):
        committed, path = choosing.committed, path_to(tree, node)
        generated = np.concatenate([committed[choosing.prompt_len :], tree.token[path]])
        prompt = committed[: choosing.prompt_len]
        row = process_logits(logits[node], choosing.params, prompt, generated, choosing.stop_ids)
        processed.append(row)
        chosen.append(choose(row, choosing.params, len(committed) + len(path)))
    return np.stack(processed), np.array(chosen, dtype=np.int32)


def a_case(params: SamplingParams, seed: int) -> tuple[TokenTree, Choosing]:
    rng = np.random.default_rng(seed)
    committed = random_tokens(rng, 30)
    tree = random_tree(rng, int(committed[-1]), 12)
    return tree, Choosing(params, committed, 18, frozenset({2, 40, 77}))


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize("name", PARAMS)
def test_processed_logits_and_choices_equal_the_reference_to_the_bit(
    name: str, with_ties: bool
) -> None:
    tree, choosing = a_case(PARAMS[name], seed=1)
    logits = rows_for(tree, np.random.default_rng(2), with_ties=with_ties)
    wanted, wanted_choice = reference(logits, tree, choosing)

    processed = process_rows(torch.from_numpy(logits.copy()), tree, choosing)
    (chosen,) = choose_nodes(torch.from_numpy(logits.copy()), [(tree, choosing)])

    np.testing.assert_array_equal(processed.numpy().view(np.int32), wanted.view(np.int32))
    np.testing.assert_array_equal(chosen.choice, wanted_choice)


def test_penalties_make_no_table_of_the_whole_vocabulary_for_each_node() -> None:
    """It would be of a hundred megabytes for one session: a step is everybody's."""
    tree, choosing = a_case(PENALTIES, seed=1)
    logits = torch.zeros((len(tree), 20 * VOCAB_SIZE))

    tracemalloc.start()
    try:
        process_rows(logits, tree, choosing)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most_bytes < logits.numel()


def test_a_nucleus_that_ends_among_equals_keeps_the_lowest_ids() -> None:
    tree, choosing = a_case(SamplingParams(temperature=1.0, top_p=0.5, seed=1), seed=3)
    logits = np.zeros((len(tree), VOCAB_SIZE), dtype=np.float32)

    processed = process_rows(torch.from_numpy(logits.copy()), tree, choosing)

    np.testing.assert_array_equal(processed.numpy(), reference(logits, tree, choosing)[0])
    assert np.isfinite(processed[0, : VOCAB_SIZE // 2].numpy()).all()


def test_sessions_of_one_step_are_sampled_each_by_its_own_parameters() -> None:
    cases = [a_case(params, seed) for seed, params in enumerate(PARAMS.values())]
    rng = np.random.default_rng(4)
    rows = [rows_for(tree, rng, with_ties=True) for tree, _ in cases]
    wanted = [reference(row, *case)[1] for row, case in zip(rows, cases, strict=True)]

    chosen = choose_nodes(torch.from_numpy(np.concatenate(rows)), cases)

    for ours, theirs in zip(chosen, wanted, strict=True):
        np.testing.assert_array_equal(ours.choice, theirs)


def test_a_tie_goes_to_the_lowest_id_also_in_bf16() -> None:
    tree, choosing = a_case(SamplingParams(), seed=5)
    logits = torch.zeros((len(tree), VOCAB_SIZE), dtype=torch.bfloat16)
    logits[:, [70, 900, 2999]] = 1.0

    (chosen,) = choose_nodes(logits, [(tree, choosing)])

    assert (chosen.choice == 70).all()


def test_min_tokens_matters_only_until_they_are_generated() -> None:
    _, choosing = a_case(SamplingParams(min_tokens=12), seed=6)
    _, later = a_case(SamplingParams(min_tokens=13), seed=6)

    assert changes_nothing(choosing)
    assert not changes_nothing(later)


SEEDS_AND_POSITIONS = [(0, 0), (1, 0), (2**64 - 1, 7), (0x9E3779B97F4A7C15, 8191), (2**63, 10**6)]


@pytest.mark.parametrize(("seed", "position"), SEEDS_AND_POSITIONS)
def test_the_device_hash_has_the_bits_of_the_reference(seed: int, position: int) -> None:
    tokens = np.concatenate([np.arange(50_000), [2**31 - 1]])

    ours = device_hash(seed, position, torch.from_numpy(tokens))

    np.testing.assert_array_equal(ours.numpy().view(np.uint64), hash_u64(seed, position, tokens))


@pytest.mark.parametrize(("seed", "position"), SEEDS_AND_POSITIONS)
def test_the_device_transform_is_within_one_ulp_of_the_reference(seed: int, position: int) -> None:
    tokens = torch.arange(200_000)

    ours = device_gumbel(device_hash(seed, position, tokens)).numpy()

    np.testing.assert_array_max_ulp(ours, gumbel(seed, position, len(tokens)), maxulp=1)


def test_noise_on_the_cpu_is_the_references_own() -> None:
    rows = gumbel_rows(12, [3, 9], 1000, CPU)

    wanted = np.stack([gumbel(12, 3, 1000), gumbel(12, 9, 1000)])
    np.testing.assert_array_equal(rows.numpy().view(np.int32), wanted.view(np.int32))
