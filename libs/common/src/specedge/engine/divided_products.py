"""One product by panels on several threads: each has some of the panels.

A compiled product is one thread's. One of a few rows is over before another thread has begun; a
prompt's is divided here, among torch's own threads: those of another pool would have to share the
cores with them, since they wait for torch's next operation without sleeping.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

# Weights times rows that are worth a thread: half a millisecond's.
FEWEST_PRODUCTS: Final = 8 << 20
_PART: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def divided(multiply: Callable[[int, int], None], num_panels: int, num_products: int) -> None:
    """``multiply(first, last)`` for all panels, of ``num_products`` products together, on as many
    threads as torch computes with on the calling one, or fewer. It must not raise."""
    openmp = _openmp()
    num_parts = min(torch.get_num_threads(), num_panels, num_products // FEWEST_PRODUCTS)
    if num_parts <= 1 or openmp is None:
        multiply(0, num_panels)
        return

    def part(_: Any) -> None:
        number, count = openmp.omp_get_thread_num(), openmp.omp_get_num_threads()
        first, last = (place * num_panels // count for place in (number, number + 1))
        multiply(first, last)

    openmp.GOMP_parallel(_PART(part), None, num_parts, 0)


def can_divide() -> bool:
    """Whether products are divided here at all, if torch computes on several threads."""
    return _openmp() is not None


@cache
def _openmp() -> Any:
    """The library that torch divides its operations with; None where it is another kind."""
    for file in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        library = ctypes.CDLL(str(file))  # the one that is loaded already
        if hasattr(library, "GOMP_parallel"):
            library.GOMP_parallel.argtypes = (_PART, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            library.GOMP_parallel.restype = None
            return library
    return None
