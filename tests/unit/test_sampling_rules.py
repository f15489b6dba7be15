"""The reference sampler: order of the rules, and their edges."""

import numpy as np
import pytest

from specedge.params import SamplingParams
from specedge.sampling.noise import gumbel
from specedge.sampling.rules import choose, log_softmax, process_logits

NONE = np.empty(0, dtype=np.int32)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def process(
    logits: list[float],
    params: SamplingParams,
    prompt: np.ndarray = NONE,
    generated: np.ndarray = NONE,
    stop_ids: frozenset[int] = frozenset(),
) -> np.ndarray:
    return process_logits(np.array(logits, np.float32), params, prompt, generated, stop_ids)


def survivors(processed: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(processed)).tolist()


def nucleus(probabilities: list[float], **rule: float) -> list[int]:
    params = SamplingParams(temperature=1.0, **rule)  # type: ignore[arg-type]
    return survivors(process(np.log(probabilities).tolist(), params))


def test_the_logits_given_are_not_changed() -> None:
    logits = np.array([1.0, 2.0], np.float32)

    process_logits(logits, SamplingParams(temperature=0.5, top_k=1), NONE, NONE, frozenset())

    assert logits.tolist() == [1.0, 2.0]


def test_repetition_counts_prompt_and_generated_tokens_once_each() -> None:
    params = SamplingParams(repetition_penalty=2.0)

    out = process([4.0, -4.0, 3.0, 5.0], params, prompt=ids(0, 0, 2), generated=ids(1, 2))

    assert out.tolist() == [2.0, -8.0, 1.5, 5.0]


def test_frequency_and_presence_count_generated_tokens_only() -> None:
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=1.0)

    out = process([4.0, 4.0, 4.0], params, prompt=ids(0), generated=ids(1, 2, 2))

    assert out.tolist() == [4.0, 2.5, 2.0]


def test_penalties_come_before_bias_and_bias_before_temperature() -> None:
    params = SamplingParams(
        temperature=0.5, repetition_penalty=2.0, presence_penalty=1.0, logit_bias=((0, 3.0),)
    )

    out = process([4.0, 0.0], params, generated=ids(0))

    assert out.tolist() == [(4.0 / 2 - 1 + 3) / 0.5, 0.0]


def test_min_tokens_masks_stop_ids_until_enough_were_generated() -> None:
    params = SamplingParams(min_tokens=2)

    early = process([0.0, 9.0], params, generated=ids(0), stop_ids=frozenset({1}))
    late = process([0.0, 9.0], params, generated=ids(0, 0), stop_ids=frozenset({1}))

    assert choose(early, params, 0) == 0
    assert choose(late, params, 0) == 1


def test_a_bias_cannot_bring_a_masked_stop_id_back() -> None:
    params = SamplingParams(min_tokens=1, logit_bias=((1, 100.0),))

    assert survivors(process([0.0, 0.0], params, stop_ids=frozenset({1}))) == [0]


def test_greedy_heeds_neither_truncation_nor_seed() -> None:
    logits = [1.0, 3.0, 2.0]
    greedy = SamplingParams(temperature=0.0, top_k=1, top_p=0.1, min_p=0.9, seed=7)

    out = process(logits, greedy)

    assert out.tolist() == logits
    assert [choose(out, greedy, p) for p in range(20)] == [1] * 20


def test_the_lowest_id_wins_a_greedy_tie() -> None:
    assert choose(np.array([1.0, 5.0, 5.0], np.float32), SamplingParams(), 3) == 1


def test_top_k_keeps_ties_with_the_last_of_the_k() -> None:
    params = SamplingParams(temperature=1.0, top_k=2)

    assert survivors(process([3.0, 1.0, 2.0, 2.0, 0.0], params)) == [0, 2, 3]


@pytest.mark.parametrize("top_k", [0, 5, 6, 1000])
def test_top_k_of_nothing_or_everything_keeps_everything(top_k: int) -> None:
    params = SamplingParams(temperature=1.0, top_k=top_k)

    assert survivors(process([3.0, 1.0, 2.0, 2.0, 0.0], params)) == [0, 1, 2, 3, 4]


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass() -> None:
    peaked = [0.6, 0.2, 0.1, 0.06, 0.04]

    assert nucleus(peaked, top_p=0.79) == [0, 1]
    assert nucleus(peaked, top_p=0.81) == [0, 1, 2]
    assert nucleus(peaked, top_p=0.59) == [0]


def test_top_p_breaks_ties_by_the_lower_id() -> None:
    assert nucleus([0.25, 0.25, 0.25, 0.25], top_p=0.5) == [0, 1]


@pytest.mark.parametrize("rule", [{"top_p": 1e-9}, {"top_p": 0.0}, {"min_p": 1.0}, {"top_k": 1}])
def test_the_likeliest_token_always_survives(rule: dict[str, float]) -> None:
    assert nucleus([0.2, 0.5, 0.3], **rule) == [1]


def test_min_p_is_relative_to_the_likeliest_token() -> None:
    assert nucleus([0.5, 0.26, 0.14, 0.1], min_p=0.27) == [0, 1, 2]
    assert nucleus([0.5, 0.26, 0.14, 0.1], min_p=0.29) == [0, 1]


def test_truncations_act_on_what_earlier_ones_left() -> None:
    # Of the two that top-k leaves, the first holds 0.6 of the mass: top-p keeps it alone.
    assert nucleus([0.3, 0.2, 0.2, 0.15, 0.15], top_k=1, top_p=0.9) == [0]
    assert nucleus([0.45, 0.3, 0.15, 0.1], top_k=2, top_p=0.59) == [0]


def test_a_vanishing_temperature_samples_the_likeliest_without_overflow() -> None:
    params = SamplingParams(temperature=1e-300, top_p=0.9, seed=1)

    out = process([90.0, 100.0, -100.0], params)

    assert {choose(out, params, p) for p in range(50)} == {1}


def test_choosing_adds_the_noise_of_its_position() -> None:
    params = SamplingParams(temperature=1.0, seed=5)
    flat = np.zeros(50, np.float32)

    chosen = [choose(flat, params, p) for p in range(30)]

    assert chosen == [int(gumbel(5, p, 50).argmax()) for p in range(30)]
    assert len(set(chosen)) > 10


def test_sampled_choices_follow_the_truncated_distribution() -> None:
    params = SamplingParams(temperature=0.7, top_k=5, min_p=0.05, seed=3)
    processed = process(np.random.default_rng(0).normal(size=12).tolist(), params)
    expected = np.exp(log_softmax(processed).astype(np.float64))
    n = 8000

    counts = np.bincount([choose(processed, params, p) for p in range(n)], minlength=12)

    kept = expected > 0
    assert counts[~kept].sum() == 0
    statistic = ((counts - n * expected)[kept] ** 2 / (n * expected[kept])).sum()
    assert statistic < 23.5  # 99.99 % point at 4 degrees of freedom


def test_log_softmax_sums_to_one_and_shifts_nothing() -> None:
    logits = np.array([[1000.0, 1001.0, -np.inf], [0.0, 0.0, 0.0]], np.float32)

    out = log_softmax(logits)

    assert out.dtype == np.float32
    np.testing.assert_allclose(np.exp(out).sum(axis=1), 1.0, rtol=1e-6)
    assert out[0, 2] == -np.inf
    np.testing.assert_allclose(out[0, 1] - out[0, 0], 1.0, rtol=1e-6)
