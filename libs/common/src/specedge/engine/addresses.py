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


def compiled(
    python: Callable[..., None], num_arguments: int, *, in_any_order: bool = True
) -> Compiled:
    """``python``, which takes so many addresses and counts. Compiled code may call it, too.
    ``in_any_order``: sums may be taken so, and thus in vectors."""
    signature = types.void(*[types.intp] * num_arguments)
    machine = cfunc(signature, fastmath=in_any_order, error_model="numpy")(python)
    _kept.append(machine)  # the machine code lives as long as what compiled it
    # By way of ctypes, a call costs a microsecond, and other threads run meanwhile.
    kinds = [ctypes.c_ssize_t] * num_arguments
    return ctypes.CFUNCTYPE(None, *kinds)(machine.address)


_kept: Final[list[Any]] = []


def _pointer_to(kind: Any) -> Any:
    """For compiled code: what is at an address, as a pointer to numbers of that kind."""
    pointer = types.CPointer(kind)

    @intrinsic
    def at(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(pointer))

        return pointer(address), generate

    return at


floats, longs, words = (_pointer_to(kind) for kind in (types.float32, types.int64, types.uint32))
shorts, octets = _pointer_to(types.int16), _pointer_to(types.int8)
