"""What a decoder does to its rows between its matrices, compiled for one CPU thread: norms, rotary
positions, gates, softmax. All arrays are float32, m rows, and told by their addresses.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from specedge.engine.addresses import Compiled, compiled, floats, longs, words


@cache
def normalising() -> Compiled:
    """``normalise(x, weight, eps, out, m, n)``: out (m, n) is x (m, n) over the root of its mean
    square and ``eps`` (1,), by ``weight`` (n,)."""
    return compiled(_normalise, num_arguments=6)


@cache
def rotating() -> Compiled:
    """``rotate(x, cosine, sine, positions, m, n, dim)``: rotary positions (m,) int64, by halves and
    in place, of x (m, n) of heads of ``dim``; cosine and sine are (positions, dim)."""
    return compiled(_rotate, num_arguments=7)


@cache
def writing() -> Compiled:
    """``write(x, plane, arena_rows, m, n, dim, stride)``: x (m, n) of groups of ``dim`` into a
    plane (groups, stride, dim), at arena_rows (m,) int64."""
    return compiled(_write, num_arguments=7)


@cache
def gating() -> Compiled:
    """``gate(x, up, scratch, m, n)``: x (m, n) becomes silu(x) times up (m, n); scratch (2, n)."""
    return compiled(_gate, num_arguments=5)


@cache
def adding() -> Compiled:
    """``add(x, more, count)``: x plus more, so many numbers."""
    return compiled(_add, num_arguments=3)


def _normalise(x: int, weight: int, eps: int, out: int, num_rows: int, count: int) -> None:
    factor, least = floats(weight), floats(eps)[0]
    for row in range(num_rows):
        before, after = floats(x + row * count * 4), floats(out + row * count * 4)
        square = np.float32(0.0)
        for i in range(count):
            square += before[i] * before[i]
        share = np.float32(1.0) / np.sqrt(square / np.float32(count) + least)
        for i in range(count):
            after[i] = before[i] * share * factor[i]


def _rotate(
    x: int, cosine: int, sine: int, positions: int, num_rows: int, count: int, dim: int
) -> None:
    half, place = dim // 2, longs(positions)
    for row in range(num_rows):
        cosines, sines = floats(cosine + place[row] * dim * 4), floats(sine + place[row] * dim * 4)
        for head in range(count // dim):
            pairs = floats(x + (row * count + head * dim) * 4)
            for i in range(half):
                first, second = pairs[i], pairs[half + i]
                pairs[i] = first * cosines[i] - second * sines[i]
                pairs[half + i] = second * cosines[half + i] + first * sines[half + i]


def _write(
    x: int, plane: int, arena_rows: int, num_rows: int, count: int, dim: int, stride: int
) -> None:
    place = longs(arena_rows)
    for row in range(num_rows):
        for group in range(count // dim):
            source = floats(x + (row * count + group * dim) * 4)
            written = floats(plane + (group * stride + place[row]) * dim * 4)
            for i in range(dim):
                written[i] = source[i]


def _gate(x: int, up: int, scratch: int, num_rows: int, count: int) -> None:
    powers = scratch + count * 4
    for row in range(num_rows):
        gates, ups, negative = floats(x + row * count * 4), floats(up + row * count * 4), scratch
        line = floats(negative)
        for i in range(count):
            line[i] = -gates[i]
        exponentials(negative, count, np.float32(0.0), powers)
        for i in range(count):
            gates[i] = gates[i] * ups[i] / (np.float32(1.0) + line[i])


def _add(x: int, more: int, count: int) -> None:
    total, term = floats(x), floats(more)
    for i in range(count):
        total[i] += term[i]


@njit(fastmath=True, error_model="numpy")
def softmax(address: int, count: int, powers: int) -> None:
    """So many numbers, in place; ``powers``: as many of scratch. For compiled code."""
    line = floats(address)
    highest = line[0]
    for i in range(count):
        highest = max(highest, line[i])
    exponentials(address, count, highest, powers)
    total = np.float32(0.0)
    for i in range(count):
        total += line[i]
    share = np.float32(1.0) / total
    for i in range(count):
        line[i] *= share


@njit(fastmath=True, error_model="numpy")
def exponentials(address: int, count: int, highest: Any, powers: int) -> None:
    """So many numbers become e to the power of (number - highest). For compiled code.

    2 to the power of the whole part is an exponent, of the rest a polynomial (degree 5, minimax on
    [0, 1), within 2e-7), so that it is done in vectors. Powers of 2 end at -90 and 90: numbers
    below the normal ones are slow, and 2 to the power of -90 is nothing beside the highest."""
    values, wholes, bits = floats(address), floats(powers), words(powers)
    for i in range(count):
        x = (values[i] - highest) * np.float32(1.4426950408889634)
        x = min(max(x, np.float32(-90.0)), np.float32(90.0))
        whole = np.floor(x)
        rest = x - whole
        near_1 = np.float32(1.8775767e-3)
        near_1 = near_1 * rest + np.float32(8.9893397e-3)
        near_1 = near_1 * rest + np.float32(5.5826318e-2)
        near_1 = near_1 * rest + np.float32(2.4015361e-1)
        near_1 = near_1 * rest + np.float32(6.9315308e-1)
        near_1 = near_1 * rest + np.float32(9.9999994e-1)
        bits[i] = np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23)
        values[i] = near_1
    for i in range(count):
        values[i] *= wholes[i]
