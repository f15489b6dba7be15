"""Slots: leased, left by closed sessions, adopted by the same edge's next one."""

import numpy as np

from specedge.ids import EdgeId
from specedge.tree.token_tree import IntArray
from specedge_verifier.slots import ReleaseCall, SlotLease, SlotPool

A, B = EdgeId("U" + "A" * 55), EdgeId("U" + "B" * 55)


def tokens(*ids: int) -> IntArray:
    return np.asarray(ids, dtype=np.int32)


def first(count: int) -> IntArray:
    return np.arange(count, dtype=np.int32)


def lease(pool: SlotPool, edge: EdgeId, context: IntArray) -> tuple[SlotLease, int]:
    leased = pool.lease(edge, context, len(context))
    assert leased is not None
    return leased


def test_no_more_slots_are_leased_than_there_are() -> None:
    pool = SlotPool(2)

    leases = [pool.lease(A, first(5), 5) for _ in range(3)]

    assert [leased is not None for leased in leases] == [True, True, False]
    assert pool.num_leased == 2


def test_the_same_edges_next_session_starts_with_the_rows_that_it_shares() -> None:
    pool = SlotPool(2)
    slot, _ = lease(pool, A, first(40))
    pool.give_back(A, slot, first(38))

    adopted, rows = lease(pool, A, np.concatenate([first(30), tokens(99, 98, 97)]))

    assert adopted is slot
    assert rows == 30
    assert not pool.calls


def test_the_root_is_never_among_the_rows_taken_over() -> None:
    pool = SlotPool(1)
    slot, _ = lease(pool, A, first(40))
    pool.give_back(A, slot, first(40))

    _, rows = lease(pool, A, first(40))

    assert rows == 39


def test_the_longest_shared_prefix_wins() -> None:
    pool = SlotPool(3)
    short, long = lease(pool, A, first(40))[0], lease(pool, A, first(40))[0]
    pool.give_back(A, long, first(35))
    pool.give_back(A, short, first(20))

    adopted, rows = lease(pool, A, first(60))

    assert (adopted, rows) == (long, 35)


def test_another_edge_never_gets_what_an_edge_left() -> None:
    pool = SlotPool(2)
    slot, _ = lease(pool, A, first(40))
    pool.give_back(A, slot, first(38))

    other, rows = lease(pool, B, first(40))

    assert other is not slot
    assert rows == 0


def test_what_was_left_longest_ago_goes_first_when_a_slot_is_needed() -> None:
    pool = SlotPool(2)
    slots = [lease(pool, A, tokens(*range(n, n + 40)))[0] for n in (0, 100)]
    pool.give_back(A, slots[0], tokens(*range(40)))
    pool.give_back(A, slots[1], tokens(*range(100, 140)))

    lease(pool, B, first(5))

    (call,) = pool.calls
    assert isinstance(call, ReleaseCall)
    assert call.lease is slots[0]


def test_too_short_a_prefix_is_released_at_once() -> None:
    pool = SlotPool(1)
    slot, _ = lease(pool, A, first(10))

    pool.give_back(A, slot, first(9))

    (call,) = pool.calls
    assert isinstance(call, ReleaseCall)
    assert pool.num_leased == 0
    assert pool.lease(B, first(5), 5) is not None
