"""The noise: its bits, its distribution, and its independence."""

import numpy as np
import pytest

from specedge.sampling.noise import choice_seed, gumbel, hash_u64, mix, stream, uniform

WORD = 2**64


def reference_hash(seed: int, position: int, token: int) -> int:
    """The documented formula once more, on Python's integers."""

    def finalise(z: int) -> int:
        z %= WORD
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        return z ^ (z >> 31)

    gamma = 0x9E3779B97F4A7C15
    start = finalise(finalise(seed + gamma) + (position + 1) * gamma)
    return finalise(start + (token + 1) * gamma)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_finaliser_is_that_of_splitmix64() -> None:
    # First three outputs of the published generator seeded with 0.
    gamma = 0x9E3779B97F4A7C15

    outputs = [mix((i + 1) * gamma) for i in range(3)]

    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_the_hash_keeps_its_golden_values() -> None:
    golden = {
        (0, 0): [0x238275BC38FCBE91, 0xF89A2566B5822C54, 0x47200E1D9780FA44],
        (WORD - 1, 10**6): [8608581430771010670, 11042054719786396975, 13528085152342727543],
    }

    for (seed, position), expected in golden.items():
        assert hash_u64(seed, position, np.arange(3)).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, 2**63, WORD - 1])
@pytest.mark.parametrize("position", [0, 1, 31_999, 2**31])
def test_the_hash_follows_the_documented_formula(seed: int, position: int) -> None:
    tokens = np.array([0, 1, 49_151, 262_143])

    hashes = hash_u64(seed, position, tokens)

    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [reference_hash(seed, position, int(t)) for t in tokens]


def test_the_hash_does_not_depend_on_the_shape_or_integer_type_of_tokens() -> None:
    tokens = np.arange(12)

    flat = hash_u64(5, 6, tokens)

    assert np.array_equal(hash_u64(5, 6, tokens.reshape(3, 4).astype(np.int32)).ravel(), flat)


def test_gumbel_noise_keeps_its_golden_values() -> None:
    noise = gumbel(7, 3, 5)

    assert noise.dtype == np.float32
    expected = np.array(
        [0.013105363585, 0.22364012897, -0.99366819858, -1.31818151474, 0.300716549158], np.float32
    )
    np.testing.assert_array_max_ulp(noise, expected, maxulp=1)


def test_a_longer_vocabulary_does_not_change_the_noise_of_its_first_tokens() -> None:
    assert np.array_equal(gumbel(1, 2, 1000)[:100], gumbel(1, 2, 100))


def test_uniform_numbers_stay_inside_the_open_interval_at_both_ends() -> None:
    ends = uniform(np.array([0, WORD - 1], dtype=np.uint64))

    assert ends.tolist() == [2.0**-53, 1.0 - 2.0**-53]
    assert np.isfinite(np.log(-np.log(ends))).all()


def test_every_bit_of_the_hash_is_set_half_of_the_time() -> None:
    n = 40_000
    hashes = np.concatenate([hash_u64(3, p, np.arange(200)) for p in range(n // 200)])

    share = np.array([((hashes >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)])

    assert np.abs(share - 0.5).max() < 4.5 * 0.5 / np.sqrt(n)


def test_argmax_with_noise_samples_the_softmax() -> None:
    probability = np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005])
    logits = np.log(probability).astype(np.float32)
    n = 20_000

    drawn = [int((logits + gumbel(11, position, 8)).argmax()) for position in range(n)]

    # 99.99 % point at 7 degrees of freedom.
    assert chi_square(np.bincount(drawn, minlength=8), n * probability) < 29.9


@pytest.mark.parametrize("neighbour", ["next position", "next seed"])
def test_draws_that_differ_by_one_are_independent(neighbour: str) -> None:
    n = 16_000
    step = (0, 1) if neighbour == "next position" else (1, 0)

    first = [int(gumbel(4, p, 4).argmax()) for p in range(0, 2 * n, 2)]
    second = [int(gumbel(4 + step[0], p + step[1], 4).argmax()) for p in range(0, 2 * n, 2)]

    table = np.bincount(4 * np.array(first) + second, minlength=16)
    # 99.99 % point at 15 degrees of freedom, the marginals being known.
    assert chi_square(table, np.full(16, n / 16)) < 44.3


def test_choices_have_seeds_of_their_own_whatever_n_is() -> None:
    seeds = {choice_seed(seed, i) for seed in range(50) for i in range(50)}

    assert len(seeds) == 2500
    assert choice_seed(1, 0) == 539484414468452969
    assert not seeds & {stream(seed, p) for seed in range(50) for p in range(50)}
