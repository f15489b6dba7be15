"""Arrays on the system's large pages, where it has them: for weights, read from end to end at every
pass. On usual pages each 4 KiB of them costs a walk through the page tables, in a virtual machine
through two. numpy only."""

import contextlib
import mmap
from threading import Lock
from typing import Final

import numpy as np

from specedge.engine.panel_layout import Bytes

_PAGE_BYTES: Final = 2 << 20
# Address space taken at a time; what is not written to takes no memory.
_CHUNK_BYTES: Final = 64 << 20
_LINE_BYTES: Final = 64


class _Arena:
    """Hands out pieces of chunks, each of which lives as long as any of its pieces."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._chunk: Bytes = np.empty(0, dtype=np.uint8)

    def piece(self, num_bytes: int) -> Bytes:
        """So many bytes, at the beginning of a cache line; zeros."""
        rounded = -(-num_bytes // _LINE_BYTES) * _LINE_BYTES
        with self._lock:
            if rounded > len(self._chunk):
                self._chunk = _chunk(max(rounded, _CHUNK_BYTES))
            piece, self._chunk = self._chunk[:num_bytes], self._chunk[rounded:]
        return piece


def _chunk(num_bytes: int) -> Bytes:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(num_bytes, dtype=np.uint8)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, num_bytes + _PAGE_BYTES, flags=private)
    with contextlib.suppress(OSError):  # of a system without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, dtype=np.uint8)
    begin = -whole.ctypes.data % _PAGE_BYTES
    return whole[begin : begin + num_bytes]


_ARENA: Final = _Arena()


def settled(array: Bytes) -> Bytes:
    """A copy of ``array`` (n,) on large pages, among the others that were asked for."""
    piece = _ARENA.piece(len(array))
    piece[:] = array
    return piece
