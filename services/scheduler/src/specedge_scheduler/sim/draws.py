"""Chance, as a pure function of what it is about: the same in every run, whatever else happens.

So two policies meet the same texts and the same delays, and differ in nothing but themselves.
"""

import math
from array import array
from statistics import NormalDist
from typing import Final

import numpy as np

from specedge.protocol.prefix_hash import GAMMA, MULTIPLIER_1, MULTIPLIER_2, splitmix64

_NORMAL: Final = NormalDist()
_SCALE: Final = 2.0**-53


def mixed(*parts: int) -> int:
    """64 bits that tell these numbers from any others."""
    state = 0
    for part in parts:
        state = splitmix64(state ^ (part + 1))
    return state


def uniform(*parts: int) -> float:
    """In (0, 1)."""
    return ((mixed(*parts) >> 11) + 0.5) * _SCALE


def uniforms(name: int, count: int) -> "array[float]":
    """``uniform(name, 0)`` to ``uniform(name, count - 1)``, all at once."""
    z = np.arange(1, count + 1, dtype=np.uint64) ^ np.uint64(mixed(name))
    z += np.uint64(GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MULTIPLIER_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MULTIPLIER_2)
    z ^= z >> np.uint64(31)
    drawn = ((z >> np.uint64(11)).astype(np.float64) + 0.5) * _SCALE
    return array("d", drawn.tobytes())


def normal(*parts: int) -> float:
    """Of mean 0 and deviation 1."""
    return _NORMAL.inv_cdf(uniform(*parts))


class Stream:
    """Draws one after another, where nothing but their order names them."""

    __slots__ = ("_state",)

    def __init__(self, *parts: int) -> None:
        self._state = mixed(*parts)

    def uniform(self) -> float:
        """The next number in (0, 1)."""
        self._state = splitmix64(self._state)
        return ((self._state >> 11) + 0.5) * _SCALE

    def normal(self) -> float:
        """The next number of mean 0 and deviation 1."""
        return _NORMAL.inv_cdf(self.uniform())

    def host_s(self, mean_ms: float) -> float:
        """Seconds that software took which takes ``mean_ms`` on average: never under half of it,
        now and then several times as long. Spans of the real services are spread like that."""
        return mean_ms / 2000 * (1.0 - math.log(self.uniform()))
