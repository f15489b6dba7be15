"""The buddy allocator of KV rows."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from specedge.engine.row_allocator import MIN_BLOCK_ROWS, RowAllocator, block_rows_for

SIZES = st.integers(min_value=1, max_value=700)


def test_a_block_is_the_next_power_of_two_and_not_too_small() -> None:
    assert [block_rows_for(n) for n in (1, 64, 65, 128, 129)] == [64, 64, 128, 128, 256]


def test_rows_that_fill_no_smallest_block_are_not_handed_out() -> None:
    assert RowAllocator(MIN_BLOCK_ROWS - 1).num_rows == 0
    assert RowAllocator(MIN_BLOCK_ROWS * 5 + 3).num_rows == MIN_BLOCK_ROWS * 5


@given(st.lists(st.tuples(st.booleans(), SIZES), max_size=60), st.integers(64, 5000))
def test_blocks_never_overlap_are_conserved_and_merge_again(
    asked: list[tuple[bool, int]], num_rows: int
) -> None:
    rows = RowAllocator(num_rows)
    whole = RowAllocator(num_rows)
    held: list[tuple[int, int]] = []
    for gives_back, wanted in asked:
        if gives_back and held:
            rows.give_back(*held.pop(wanted % len(held)))
        elif (offset := rows.try_take(block_rows_for(wanted))) is not None:
            held.append((offset, block_rows_for(wanted)))
        taken = sorted(held)
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(taken))
        assert all(offset % size == 0 and offset + size <= num_rows for offset, size in held)
    for block in held:
        rows.give_back(*block)
    assert _largest(rows) == _largest(whole)


def _largest(rows: RowAllocator) -> list[int]:
    """All blocks that can be taken, largest first."""
    taken = []
    size = 1 << rows.num_rows.bit_length()
    while size >= MIN_BLOCK_ROWS:
        if rows.try_take(size) is None:
            size //= 2
        else:
            taken.append(size)
    return taken
