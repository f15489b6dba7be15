"""Leases, growth and moves of slotted KV, on a cache whose every row says where it was written."""

import numpy as np
import pytest
import torch

from specedge.engine.kv_cache import LayerShape, SlottedKVCache, bytes_per_row
from specedge.errors import Busy
from specedge.ids import Slot

# K and V of unlike shapes, and a second layer unlike the first.
LAYERS = [LayerShape(2, 4, 2, 6), LayerShape(1, 4, 1, 4)]
ROW_BYTES = bytes_per_row(LAYERS, torch.float32)


def make_cache(num_rows: int, num_slots: int = 4) -> SlottedKVCache:
    return SlottedKVCache(
        LAYERS,
        num_slots=num_slots,
        kv_bytes=num_rows * ROW_BYTES,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def write(cache: SlottedKVCache, slot: Slot, values: list[float]) -> None:
    """Row i of every plane of the slot holds values[i], plane by plane shifted."""
    first = cache.offset(slot)
    for shift, plane in enumerate(plane for layer in range(2) for plane in cache.planes(layer)):
        rows = torch.tensor(values) + 1000 * shift
        plane[:, first : first + len(values)] = rows[None, :, None]


def read(cache: SlottedKVCache, slot: Slot, count: int) -> list[float]:
    """What ``write`` wrote; all planes must agree."""
    first = cache.offset(slot)
    found = []
    for shift, plane in enumerate(plane for layer in range(2) for plane in cache.planes(layer)):
        rows = plane[:, first : first + count] - 1000 * shift
        assert (rows == rows[:1, :, :1]).all()
        found.append(rows[0, :, 0].tolist())
    assert all(rows == found[0] for rows in found)
    return list(found[0])


def test_a_path_moves_in_place_behind_the_committed_rows() -> None:
    cache = make_cache(64)
    slot = cache.lease(20)
    write(cache, slot, [*range(10), 100, 101, 102, 103, 104, 105])

    cache.move_path(slot, 10, np.array([1, 4, 6], dtype=np.int32))

    assert read(cache, slot, 13) == [*range(10), 100, 103, 105]


def test_rows_move_in_any_order_without_overwriting_one_another() -> None:
    cache = make_cache(64)
    slot = cache.lease(20)
    write(cache, slot, list(range(16)))

    cache.move_rows(slot, np.array([4, 9, 5, 7], dtype=np.int32), 4)

    assert read(cache, slot, 8) == [0, 1, 2, 3, 4, 9, 5, 7]


def test_a_slot_grows_by_doubling_and_keeps_its_valid_rows() -> None:
    cache = make_cache(512)
    slots = [cache.lease(64) for _ in range(3)]
    for number, slot in enumerate(slots):
        write(cache, slot, [1.0 + number] * 64)

    cache.grow(slots[1], 65, 64)

    assert cache.capacity(slots[1]) == 128
    assert [read(cache, slot, 64) for slot in slots] == [[1.0] * 64, [2.0] * 64, [3.0] * 64]
    assert cache.bytes_held == (64 + 128 + 64) * ROW_BYTES


def test_a_slot_that_is_large_enough_stays_where_it_is() -> None:
    cache = make_cache(512)
    slot = cache.lease(100)
    offset = cache.offset(slot)

    cache.grow(slot, 128, 100)

    assert (cache.offset(slot), cache.capacity(slot)) == (offset, 128)


def test_without_memory_a_lease_or_growth_is_refused_and_changes_nothing() -> None:
    cache = make_cache(128)
    slot = cache.lease(64)
    write(cache, slot, [7.0] * 64)

    with pytest.raises(Busy):
        cache.lease(65)
    with pytest.raises(Busy):
        cache.grow(slot, 65, 64)

    assert (cache.slots_used, cache.bytes_held) == (1, 64 * ROW_BYTES)
    assert read(cache, slot, 64) == [7.0] * 64


def test_without_slots_a_lease_is_refused_until_one_is_released() -> None:
    cache = make_cache(1024, num_slots=2)
    first, _ = cache.lease(1), cache.lease(1)
    with pytest.raises(Busy):
        cache.lease(1)

    cache.release(first)

    assert cache.lease(1) == first


def test_copied_rows_are_the_destinations_own() -> None:
    cache = make_cache(512)
    source, destination = cache.lease(100), cache.lease(1)
    write(cache, source, list(range(100)))

    cache.copy_rows(source, destination, 90)
    write(cache, source, [0.0] * 100)

    assert read(cache, destination, 90) == list(range(90))


def test_released_memory_serves_a_larger_slot() -> None:
    cache = make_cache(256)
    slots = [cache.lease(64) for _ in range(4)]
    for slot in slots:
        cache.release(slot)

    assert cache.capacity(cache.lease(256)) == 256


def test_a_cache_too_small_for_one_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="hold no block"):
        make_cache(63)
