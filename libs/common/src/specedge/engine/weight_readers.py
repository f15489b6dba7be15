"""How compiled code reads a panel's weights, by their form: LLVM instructions that make float32.

Every reader yields, input by input, the PANEL_OUTPUTS weights that a row's input meets, in vectors.
What it yields are the very numbers that the matrix had. Knows llvmlite and no block of rows.
"""

from collections.abc import Iterator
from typing import Any, Final, Protocol

from llvmlite import ir
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features

from specedge.engine.kept_bytes import FLOAT_BYTES
from specedge.engine.panel_layout import PANEL_OUTPUTS
from specedge.engine.quantised_blocks import (
    BLOCK_BYTES,
    BLOCK_INPUTS,
    DIGITS,
    MINIMUM,
    SCALE,
    WORD_DIGITS,
)
from specedge.engine.vector_code import FLOAT, INT8, INT32, fused, numbers


def _features() -> frozenset[str]:
    """Of the processor that numba compiles for, which its settings may say to be another."""
    if config.CPU_NAME == "generic":
        return frozenset()
    told = config.CPU_FEATURES
    listed = get_host_cpu_features() if told is None else told
    return frozenset(name[1:] for name in listed.split(",") if name.startswith("+"))


_FEATURES: Final = _features()
# Of a vector. Sixteen where one instruction moves all its bytes; two of eight are as quick
# elsewhere, and AVX2 has no longer ones.
LANES: Final = 16 if "avx512vbmi" in _FEATURES else 8
PARTS: Final = PANEL_OUTPUTS // LANES
VECTOR: Final = ir.VectorType(FLOAT, LANES)
# A table of sixteen numbers is looked up by the lower four bits of each lane.
_HAS_LOOK_UP: Final = LANES == 16 and "avx512f" in _FEATURES
_INTEGERS: Final = ir.VectorType(INT32, LANES)
_HALVES: Final = ir.VectorType(ir.HalfType(), LANES)
_WORD_BYTES: Final = 4


def widens_halves() -> bool:
    """Whether the processor makes float32 of float16 by itself; blocks' scales are the latter."""
    return not _FEATURES.isdisjoint({"f16c", "neon"})


class Reader(Protocol):
    """Of weights of one form. A panel is groups of inputs, each with something in common, and a
    group is steps.

    group_inputs, group_bytes   what a panel has for so many inputs is so many bytes
    num_steps                   of a group, each of as many inputs
    """

    group_inputs: int
    group_bytes: int
    num_steps: int

    def common(self, builder: Any, start: Any) -> Any:
        """The instructions for what a group's weights have in common; ``start`` points to it."""
        ...

    def weights(self, builder: Any, common: Any, start: Any, step: Any) -> Iterator[list[Any]]:
        """The instructions for step number ``step`` of that group: for each of its inputs in turn,
        PARTS vectors of float32."""
        ...


class UpperBytes:
    """Float32 of which only the upper bytes are kept, where the others are zero: they are put in
    their places as they are met, which is less work than waiting for more of them."""

    group_inputs = 1
    num_steps = 1

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self.group_bytes = PANEL_OUTPUTS * kept

    def common(self, builder: Any, start: Any) -> None:
        """Nothing."""

    def weights(self, builder: Any, common: None, start: Any, step: Any) -> Iterator[list[Any]]:
        """See ``Reader``."""
        yield [
            self._vector(builder, _at(builder, start, part * LANES * self._kept))
            for part in range(PARTS)
        ]

    def _vector(self, builder: Any, start: Any) -> Any:
        if self._kept == FLOAT_BYTES:
            return _load(builder, start, VECTOR)
        num_bytes = LANES * FLOAT_BYTES
        all_bytes = ir.VectorType(INT8, num_bytes)
        read = _load(builder, start, all_bytes)
        nothing = ir.Constant(all_bytes, [0] * num_bytes)
        dropped = FLOAT_BYTES - self._kept
        places = [
            num_bytes if byte < dropped else lane * self._kept + byte - dropped  # from ``nothing``
            for lane in range(LANES)
            for byte in range(FLOAT_BYTES)
        ]
        return builder.bitcast(builder.shuffle_vector(read, nothing, numbers(places)), VECTOR)


class Digits4:
    """Blocks of 4 bits: a digit is looked up, and is a weight by one fused operation."""

    group_inputs = BLOCK_INPUTS
    group_bytes = BLOCK_BYTES[4]
    num_steps = BLOCK_INPUTS // WORD_DIGITS

    def common(self, builder: Any, start: Any) -> tuple[list[Any], list[Any]]:
        """Scale and minimum."""
        return _halves(builder, start, SCALE), _halves(builder, start, MINIMUM)

    def weights(
        self, builder: Any, common: tuple[list[Any], list[Any]], start: Any, step: Any
    ) -> Iterator[list[Any]]:
        """See ``Reader``."""
        here = builder.gep(start, [builder.mul(step, step.type(_WORD_BYTES * PANEL_OUTPUTS))])
        words = [
            _load(builder, _at(builder, here, DIGITS[4] + _WORD_BYTES * LANES * part), _INTEGERS)
            for part in range(PARTS)
        ]
        for place in range(WORD_DIGITS):
            yield [
                fused(builder, _digit(builder, of_part, place), scale, minimum)
                for of_part, scale, minimum in zip(words, *common, strict=True)
            ]


class Digits8:
    """Blocks of 8 bits: a digit is widened, and multiplied without rounding."""

    group_inputs = BLOCK_INPUTS
    group_bytes = BLOCK_BYTES[8]
    num_steps = 4

    def common(self, builder: Any, start: Any) -> list[Any]:
        """Scale."""
        return _halves(builder, start, SCALE)

    def weights(
        self, builder: Any, common: list[Any], start: Any, step: Any
    ) -> Iterator[list[Any]]:
        """See ``Reader``."""
        inputs, octets = self.group_inputs // self.num_steps, ir.VectorType(INT8, LANES)
        here = builder.gep(start, [builder.mul(step, step.type(inputs * PANEL_OUTPUTS))])
        for number in range(inputs):
            begin = DIGITS[8] + number * PANEL_OUTPUTS
            stored = [
                _load(builder, _at(builder, here, begin + part * LANES), octets)
                for part in range(PARTS)
            ]
            yield [
                builder.fmul(builder.sitofp(builder.sext(digits, _INTEGERS), VECTOR), scale)
                for digits, scale in zip(stored, common, strict=True)
            ]


def _digit(builder: Any, words: Any, place: int) -> Any:
    """Digit number ``place`` of each word, as float32."""
    if place:
        words = builder.lshr(words, _every(4 * place))
    if not _HAS_LOOK_UP:
        return builder.sitofp(builder.and_(words, _every(15)), VECTOR)
    kind = ir.FunctionType(VECTOR, [VECTOR, _INTEGERS])
    look_up = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.permvar.sf.512")
    return builder.call(look_up, [ir.Constant(VECTOR, [float(i) for i in range(16)]), words])


def _every(number: int) -> Any:
    return ir.Constant(_INTEGERS, [number] * LANES)


def _halves(builder: Any, start: Any, begin: int) -> list[Any]:
    """PARTS vectors of a block's scale or minimum, as float32."""
    return [
        builder.fpext(
            _load(builder, _at(builder, start, begin + 2 * LANES * part), _HALVES), VECTOR
        )
        for part in range(PARTS)
    ]


def _at(builder: Any, start: Any, num_bytes: int) -> Any:
    return builder.gep(start, [INT32(num_bytes)])


def _load(builder: Any, start: Any, kind: Any) -> Any:
    return builder.load(builder.bitcast(start, kind.as_pointer()), align=1)
