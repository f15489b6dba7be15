"""Keys and values of every session, in one arena per tensor shape, leased by slot.

Owns the memory and where a slot lies in it. Knows nothing of trees, attention or sampling; a row is
a position of one session, and callers say which rows are valid.

An arena is (planes, heads, rows, dim): two planes per layer, K then V, for all layers whose
K or V have that shape. A slot is one block of rows, the same in every plane, so a move is one
operation per arena and a write one per plane, for all sessions of a step at once.

Rows of one slot with capacity C, half open, before and after ``move_path(base=b, path=(i, j))``,
where i < j are drafted nodes and n nodes were stepped:

    before  [0, b) committed   [b, b + n - 1) drafted, node i at b + i - 1    [.., C) garbage
    after   [0, b) committed   b = old b + i - 1,  b + 1 = old b + j - 1      [b + 2, C) garbage
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from specedge.engine.row_allocator import RowAllocator, block_rows_for
from specedge.errors import Busy
from specedge.ids import Slot
from specedge.tree.token_tree import IntArray


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer stores per row: heads and dims of K and of V."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class _Lease:
    """A slot's block: rows [offset, offset + capacity) of every arena."""

    offset: int
    capacity: int


def bytes_per_row(layers: Sequence[LayerShape], dtype: torch.dtype) -> int:
    """What one token of one session costs."""
    elements = sum(
        shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim for shape in layers
    )
    return elements * dtype.itemsize


class SlottedKVCache:
    """Leased rows of K and V. One owner thread.

    The arenas take ``kv_bytes`` at construction; on a CPU the system commits pages only as rows
    are first written. A slot grows by doubling, inside that bound.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_slots: int,
        kv_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_slots = num_slots
        self.row_bytes = bytes_per_row(layers, dtype)
        self._rows = RowAllocator(kv_bytes // self.row_bytes)
        if self._rows.num_rows == 0:
            raise ValueError(f"{kv_bytes} bytes hold no block of {self.row_bytes}-byte rows")
        self._leases: dict[Slot, _Lease] = {}
        self._unused = list(range(num_slots - 1, -1, -1))
        self._arenas, self._planes = _allocate(layers, self.spare_row + 1, dtype, device)

    @property
    def slots_used(self) -> int:
        """Slots leased now."""
        return len(self._leases)

    @property
    def bytes_held(self) -> int:
        """Bytes of the blocks that are leased now."""
        return self.row_bytes * sum(lease.capacity for lease in self._leases.values())

    def planes(self, layer: int) -> tuple[Tensor, Tensor]:
        """K (heads, rows, dim) and V of ``layer``: views of the arenas, valid for good."""
        return self._planes[layer]

    @property
    def spare_row(self) -> int:
        """An arena row that is in no slot: for what is written in vain."""
        return self._rows.num_rows

    def offset(self, slot: Slot) -> int:
        """Arena row of the slot's row 0. Changes when the slot grows."""
        return self._leases[slot].offset

    def capacity(self, slot: Slot) -> int:
        """Rows the slot can hold without growing."""
        return self._leases[slot].capacity

    def lease(self, num_rows: int) -> Slot:
        """Lease a slot with room for ``num_rows``. Raises Busy without slots or memory."""
        if not self._unused:
            raise Busy(f"all {self.num_slots} slots are leased")
        block = self._take(block_rows_for(num_rows))
        slot = Slot(self._unused.pop())
        self._leases[slot] = block
        return slot

    def release(self, slot: Slot) -> None:
        """Free the slot and its rows."""
        lease = self._leases.pop(slot)
        self._rows.give_back(lease.offset, lease.capacity)
        self._unused.append(slot)

    def grow(self, slot: Slot, num_rows: int, valid_rows: int) -> None:
        """Make room for ``num_rows``, keeping rows [0, valid_rows).

        Raises Busy, changing nothing.
        """
        old = self._leases[slot]
        if num_rows <= old.capacity:
            return
        new = self._take(block_rows_for(num_rows))
        self._copy(old.offset, new.offset, valid_rows)
        self._rows.give_back(old.offset, old.capacity)
        self._leases[slot] = new

    def move_path(self, slot: Slot, base: int, path: IntArray) -> None:
        """Move the rows of nodes ``path`` (ascending ids) to base … base + len(path) - 1."""
        self.move_rows(slot, base + path - 1, base)

    def move_rows(self, slot: Slot, sources: IntArray, first: int) -> None:
        """Move rows ``sources`` ((m,) int32, distinct, in any order) to rows first, first + 1, …

        The leading rows that are already in place are not touched; the others are read before any
        is written.
        """
        moving = np.flatnonzero(sources != first + np.arange(len(sources), dtype=np.int32))
        if len(moving) == 0:
            return
        in_place = int(moving[0])
        offset = self._leases[slot].offset
        wanted = torch.as_tensor(sources[in_place:], dtype=torch.long) + offset
        begin = offset + first + in_place
        for arena in self._arenas:
            moved = arena.index_select(2, wanted.to(arena.device))
            arena[:, :, begin : begin + len(wanted)] = moved

    def copy_rows(self, source: Slot, destination: Slot, num_rows: int) -> None:
        """Copy rows [0, num_rows) of one slot into another, which grows to hold them."""
        self.grow(destination, num_rows, 0)
        self._copy(self._leases[source].offset, self._leases[destination].offset, num_rows)

    def _take(self, size: int) -> _Lease:
        offset = self._rows.try_take(size)
        if offset is None:
            raise Busy(f"no {size} free rows in a cache of {self._rows.num_rows}")
        return _Lease(offset, size)

    def _copy(self, source: int, destination: int, num_rows: int) -> None:
        for arena in self._arenas:
            arena[:, :, destination : destination + num_rows] = arena[
                :, :, source : source + num_rows
            ]


def _allocate(
    layers: Sequence[LayerShape], num_rows: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The arenas, one per distinct (heads, dim), and each layer's planes in them."""
    homes: dict[tuple[int, int], int] = {}
    wanted: list[tuple[tuple[int, int], int, tuple[int, int], int]] = []
    for shape in layers:
        key, value = (shape.key_heads, shape.key_dim), (shape.value_heads, shape.value_dim)
        key_plane = homes[key] = homes.get(key, 0) + 1
        value_plane = homes[value] = homes.get(value, 0) + 1
        wanted.append((key, key_plane - 1, value, value_plane - 1))
    arena_of = {
        (heads, dim): torch.empty((count, heads, num_rows, dim), dtype=dtype, device=device)
        for (heads, dim), count in homes.items()
    }
    planes = [(arena_of[k][kp], arena_of[v][vp]) for k, kp, v, vp in wanted]
    return list(arena_of.values()), planes
