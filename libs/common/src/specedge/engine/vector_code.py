"""Pieces of the panels' blocks as LLVM instructions: vectors of 32-bit numbers, and fetching.

Knows llvmlite and numba's helpers, and no block.
"""

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils

INT8, INT32, FLOAT = ir.IntType(8), ir.IntType(32), ir.FloatType()
_BYTE_POINTER: Final = INT8.as_pointer()
# Into the second cache. The first has no room for a panel, and as few lines on the way to it at a
# time as would halve what the memory yields.
_SECOND_CACHE: Final = 2


def fetch(builder: Any, address: Any) -> None:
    """Let the line at ``address`` come into the second cache; it may lie beyond what there is."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTE_POINTER, INT32, INT32, INT32])
    fetching = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    for_reading, where_to, of_data = INT32(0), INT32(_SECOND_CACHE), INT32(1)
    address = builder.bitcast(address, _BYTE_POINTER)
    builder.call(fetching, [address, for_reading, where_to, of_data])


def everywhere(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of ``value``."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, INT32(0))
    return builder.shuffle_vector(first, undefined, numbers([0] * lanes))


def numbers(values: list[int]) -> Any:
    """A constant vector of int32."""
    return ir.Constant(ir.VectorType(INT32, len(values)), values)


def zeros(builder: Any, kind: Any, lanes: int, num_rows: int, num_vectors: int) -> list[list[Any]]:
    """Sums of vectors of ``kind`` that begin at zero: by row and vector, where they are kept."""
    zero = ir.Constant(ir.VectorType(kind, lanes), [kind(0)] * lanes)
    return [
        [cgutils.alloca_once_value(builder, zero) for _ in range(num_vectors)]
        for _ in range(num_rows)
    ]


def fused(builder: Any, one: Any, other: Any, more: Any) -> Any:
    """``one`` times ``other`` and ``more``, vectors of float32, rounded once."""
    kind, lanes = one.type, one.type.count
    function = ir.FunctionType(kind, [kind] * 3)
    fma = cgutils.get_or_insert_function(builder.module, function, f"llvm.fma.v{lanes}f32")
    return builder.call(fma, [one, other, more])
