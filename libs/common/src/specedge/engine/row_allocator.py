"""Where in an arena of KV rows a slot's rows lie: a buddy allocator over row numbers.

Owns numbers only; knows nothing of tensors, sessions or layers. Blocks are powers of two, so a
slot that doubles always asks for a size that freed blocks merge back into.
"""

from typing import Final

MIN_BLOCK_ROWS: Final = 64


def block_rows_for(num_rows: int) -> int:
    """The smallest block size that holds ``num_rows``."""
    return max(MIN_BLOCK_ROWS, 1 << (max(num_rows, 1) - 1).bit_length())


class RowAllocator:
    """Hands out aligned power-of-two blocks of rows in [0, num_rows)."""

    def __init__(self, num_rows: int) -> None:
        self._free: dict[int, set[int]] = {}
        offset = 0
        # A total that is no power of two is a row of ever smaller ones; a block never merges past
        # its own, because its buddy there never becomes free.
        for exponent in range(num_rows.bit_length() - 1, MIN_BLOCK_ROWS.bit_length() - 2, -1):
            size = 1 << exponent
            if num_rows - offset >= size:
                self._free.setdefault(size, set()).add(offset)
                offset += size
        self.num_rows = offset

    def try_take(self, size: int) -> int | None:
        """Offset of a block of ``size`` rows (from ``block_rows_for``), or None if none is left."""
        candidates = [free for free, offsets in self._free.items() if free >= size and offsets]
        if not candidates:
            return None
        found = min(candidates)
        offset = min(self._free[found])
        self._free[found].remove(offset)
        while found > size:
            found //= 2
            self._free.setdefault(found, set()).add(offset + found)
        return offset

    def give_back(self, offset: int, size: int) -> None:
        """Free a block taken before; merges it with free neighbours of its size."""
        while (buddy := offset ^ size) in self._free.get(size, ()):
            self._free[size].remove(buddy)
            offset = min(offset, buddy)
            size *= 2
        self._free.setdefault(size, set()).add(offset)
