"""Counter-based noise: a pure function of (seed, position, token), the same on every device.

Knows nothing of logits or parameters. All integer arithmetic is on unsigned 64 bits, modulo 2**64.

    mix(z)   the finaliser of splitmix64: z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;
                                          z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    GAMMA    0x9E3779B97F4A7C15

    stream(seed, position) = mix( mix(seed + GAMMA) + (position + 1) * GAMMA )
    hash(seed, position, token) = mix( stream(seed, position) + (token + 1) * GAMMA )

So the tokens of one position read one splitmix64 sequence, started where another, started at the
seed, says. From a hash, k = (hash >> 11) | 1 is an odd 53-bit integer, so u = k * 2**-53 is exact
in float64, lies inside (0, 1) and is symmetric about one half. gumbel = -log(-log(u)), both
logarithms in float64, then rounded to float32 once. The hash and u are exact everywhere; the two
logarithms are the only step in which libraries may differ, by an ulp of float64, which the
rounding to float32 hides but for about one value in 10**8.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from specedge.tree.token_tree import FloatArray

HashArray = npt.NDArray[np.uint64]

GAMMA: Final = 0x9E3779B97F4A7C15
MULTIPLIER_1: Final = 0xBF58476D1CE4E5B9
MULTIPLIER_2: Final = 0x94D049BB133111EB
UNIT: Final = 2.0**-53

_MASK: Final = (1 << 64) - 1
# Keeps the seeds of choices apart from the streams of positions: an arbitrary odd constant.
_CHOICE_SALT: Final = 0xD1B54A32D192ED03


def mix(z: int) -> int:
    """The finaliser of splitmix64, a bijection on 64 bits; ``z`` is taken modulo 2**64."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * MULTIPLIER_1) & _MASK
    z = ((z ^ (z >> 27)) * MULTIPLIER_2) & _MASK
    return z ^ (z >> 31)


def stream(seed: int, position: int) -> int:
    """64 bits that start the noise of one position; a device needs only these and the tokens."""
    return mix(mix(seed + GAMMA) + (position + 1) * GAMMA)


def hash_u64(seed: int, position: int, tokens: npt.NDArray[np.integer]) -> HashArray:
    """Hash of (seed, position, token) for each of ``tokens`` (any shape, each >= 0): uint64 of the
    same shape. ``seed`` is taken modulo 2**64."""
    z = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    z += np.uint64(stream(seed, position))
    z ^= z >> np.uint64(30)
    z *= np.uint64(MULTIPLIER_1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(MULTIPLIER_2)
    z ^= z >> np.uint64(31)
    return z


def uniform(hashes: HashArray) -> npt.NDArray[np.float64]:
    """The number in (0, 1) that a hash stands for: an odd multiple of 2**-53, float64, exact."""
    odd = (hashes >> np.uint64(11)) | np.uint64(1)
    return odd.astype(np.float64) * UNIT


def gumbel(seed: int, position: int, vocab_size: int) -> FloatArray:
    """Standard Gumbel noise of every token at ``position``: (vocab_size,) float32, finite."""
    return gumbel_of(seed, position, np.arange(vocab_size, dtype=np.int64))


def gumbel_of(seed: int, position: int, tokens: npt.NDArray[np.integer]) -> FloatArray:
    """The noise of ``tokens`` (any shape, each >= 0) alone: float32 of the same shape."""
    u = uniform(hash_u64(seed, position, tokens))
    np.log(u, out=u)
    np.negative(u, out=u)
    np.log(u, out=u)
    np.negative(u, out=u)
    return u.astype(np.float32)


def choice_seed(seed: int, i: int) -> int:
    """Seed of choice ``i`` (from 0) among the ``n`` asked of one request: 64 bits, unsigned.

    Does not depend on ``n``, so the first choices stay when more are asked. Holds for n = 1 too:
    the only choice of a request with seed s is sampled with ``choice_seed(s, 0)``, never with s.
    """
    return mix(mix(seed ^ _CHOICE_SALT) + (i + 1) * GAMMA)
