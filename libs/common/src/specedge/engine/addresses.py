"""Compiled code that is handed addresses: as pointers inside, and as functions outside.

An array that compiled code is handed has its references counted, and code that is called as code
is compiled again into every caller; an address costs neither. The bounds are the caller's care, and
that the arrays are C-contiguous and live.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Final

from numba import cfunc, types
from numba.extending import intrinsic

Compiled = Callable[..., None]


def compiled(python: Callable[..., None], num_arguments: int) -> Compiled:
    """``python``, which takes so many addresses and counts. Compiled code may call it, too. Sums
    may be taken in any order, and so in vectors."""
    signature = types.void(*[types.intp] * num_arguments)
    machine = cfunc(signature, fastmath=True, error_model="numpy")(python)
    _kept.append(machine)  # the machine code lives as long as what compiled it
    # By way of ctypes, a call costs a microsecond, and other threads run meanwhile.
    kinds = [ctypes.c_ssize_t] * num_arguments
    return ctypes.CFUNCTYPE(None, *kinds)(machine.address)


_kept: Final[list[Any]] = []


@intrinsic
def floats(_: Any, address: Any) -> Any:
    """The float32 at an address."""
    return _pointer_to(types.float32, address)


@intrinsic
def longs(_: Any, address: Any) -> Any:
    """The int64 at an address."""
    return _pointer_to(types.int64, address)


@intrinsic
def words(_: Any, address: Any) -> Any:
    """The uint32 at an address."""
    return _pointer_to(types.uint32, address)


@intrinsic
def shorts(_: Any, address: Any) -> Any:
    """The int16 at an address."""
    return _pointer_to(types.int16, address)


@intrinsic
def octets(_: Any, address: Any) -> Any:
    """The int8 at an address."""
    return _pointer_to(types.int8, address)


def _pointer_to(kind: Any, address: Any) -> Any:
    pointer = types.CPointer(kind)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(address), generate
