"""The hash by which two ends agree on a session's whole prefix: parameters, then every token.

    h[0]     = fold(params)                               64 bits
    h[i + 1] = splitmix64(h[i] xor (token[i] + 1))        after i + 1 committed tokens

written as 16 lower-case hex digits. ``fold`` is BLAKE2b with an 8-byte digest, read little-endian,
over the canonical JSON of *all* of ``SessionParams``: keys sorted, no spaces, defaults included,
negative zero as zero (the wire leaves defaults out, and -0.0 equals the default 0.0).
It guards against confusion, not against forgery: an edge can only confuse its own sessions.
Knows nothing of messages, rounds or states.
"""

from array import array
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import orjson

from specedge.protocol.messages import SessionParams

GAMMA: Final = 0x9E3779B97F4A7C15
MULTIPLIER_1: Final = 0xBF58476D1CE4E5B9
MULTIPLIER_2: Final = 0x94D049BB133111EB
MASK: Final = (1 << 64) - 1


def splitmix64(x: int) -> int:
    """One step of splitmix64 from state ``x``: add the constant, then finalise. 64 bits."""
    z = (x + GAMMA) & MASK
    z = ((z ^ (z >> 30)) * MULTIPLIER_1) & MASK
    z = ((z ^ (z >> 27)) * MULTIPLIER_2) & MASK
    return z ^ (z >> 31)


def fold_params(params: SessionParams) -> int:
    """h[0]: 64 bits of everything that decides a session's text beside its tokens."""
    fields = {name: _without_negative_zero(value) for name, value in params.model_dump().items()}
    canonical = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(blake2b(canonical, digest_size=8).digest(), "little")


def hash_tokens(state: int, tokens: Iterable[int]) -> int:
    """``state`` carried over ``tokens``, none of it kept. Inlined splitmix64: it runs over every
    token, several times a round."""
    gamma, multiplier_1, multiplier_2, mask = GAMMA, MULTIPLIER_1, MULTIPLIER_2, MASK
    for token in tokens:
        z = ((state ^ (token + 1)) + gamma) & mask
        z = ((z ^ (z >> 30)) * multiplier_1) & mask
        z = ((z ^ (z >> 27)) * multiplier_2) & mask
        state = z ^ (z >> 31)
    return state


def to_hex(state: int) -> str:
    """As it stands in messages."""
    return f"{state:016x}"


class PrefixHash:
    """The hash at every base so far, so that going back to one costs nothing. 8 bytes a token."""

    __slots__ = ("_states",)

    def __init__(self, params: SessionParams) -> None:
        self._states = array("Q", [fold_params(params)])

    def __len__(self) -> int:
        """How many tokens are folded in."""
        return len(self._states) - 1

    def extend(self, tokens: Iterable[int]) -> None:
        """Fold in more tokens (plain ints). Inlined splitmix64: this runs over whole prompts."""
        state = self._states[-1]
        append = self._states.append
        gamma, multiplier_1, multiplier_2, mask = GAMMA, MULTIPLIER_1, MULTIPLIER_2, MASK
        for token in tokens:
            z = ((state ^ (token + 1)) + gamma) & mask
            z = ((z ^ (z >> 30)) * multiplier_1) & mask
            z = ((z ^ (z >> 27)) * multiplier_2) & mask
            state = z ^ (z >> 31)
            append(state)

    def truncate(self, base: int) -> None:
        """Forget all but the first ``base`` tokens."""
        del self._states[base + 1 :]

    def at(self, base: int) -> str:
        """The hash over the first ``base`` tokens."""
        return to_hex(self._states[base])

    def after(self, tokens: Iterable[int]) -> str:
        """The hash if ``tokens`` followed; changes nothing."""
        return to_hex(hash_tokens(self._states[-1], tokens))


def _without_negative_zero(value: object) -> object:
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, tuple | list):
        return [_without_negative_zero(item) for item in value]
    return value
