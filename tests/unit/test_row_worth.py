"""What rows of drafts are worth, learned from rounds that yielded so and so much."""

from collections.abc import Iterator

import pytest

from specedge.ids import SessionKey
from specedge.protocol.messages import MAX_NODES, Draft
from specedge.protocol.wire_tree import levels_of
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.row_worth import GONE_KEPT, RowWorth
from tests.unit.scheduler_facts import draft, key

A = key("A")


def pending(round_: int, base: int, parents: tuple[int, ...]) -> PendingDraft:
    one: Draft = draft(round_).model_copy(
        update={"base": base, "token": tuple(range(len(parents))), "parent": parents}
    )
    return PendingDraft(one, 0.0, 1.0)


def line(num: int) -> tuple[int, ...]:
    return tuple(range(-1, num - 1))


def learned(accepted: Iterator[int], num_levels: int, rounds: int) -> RowWorth:
    """After so many rounds of one session."""
    worth, base = RowWorth(), 1
    for round_ in range(rounds + 1):
        worth.note([(A, pending(round_, base, line(num_levels)))], MAX_NODES, {A})
        base += 1 + next(accepted)
    return worth


def every(*numbers: int) -> Iterator[int]:
    while True:
        yield from numbers


def fixed_and_rows(fixed_ms: float, row_ms: float):  # type: ignore[no-untyped-def]
    return lambda rows: fixed_ms + row_ms * rows


def test_levels_are_counted_from_the_root() -> None:
    assert levels_of((-1, 0, -1, 1, 2)) == [1, 2, 1, 3, 2]


def test_nothing_is_known_before_some_rounds() -> None:
    assert not RowWorth().is_known
    assert not learned(every(1), 4, 20).is_known
    assert learned(every(1), 4, 40).is_known


def test_levels_that_were_never_right_are_cut_where_rows_cost() -> None:
    worth = learned(every(2), 6, 200)

    cap = worth.best_cap([pending(0, 9, line(12))] * 4, fixed_and_rows(10.0, 1.0), 0.0)

    assert cap == 4  # the least; from the third level on nothing was right


def test_free_rows_are_all_sent() -> None:
    worth = learned(every(2, 6), 6, 200)

    cap = worth.best_cap([pending(0, 9, line(6))], fixed_and_rows(10.0, 0.0), 0.0)

    assert cap == MAX_NODES


def test_the_more_time_passes_anyway_the_less_is_cut() -> None:
    worth = learned(every(0, 1, 2, 3, 4, 5, 6, 7, 8), 8, 600)
    rounds = [pending(0, 9, line(12))] * 8

    caps = [worth.best_cap(rounds, fixed_and_rows(20.0, 1.0), ms) for ms in (0.0, 50.0, 5000.0)]

    assert caps == sorted(caps)
    assert caps[0] < caps[-1]


def test_a_round_is_worth_its_bonus_and_what_its_levels_yielded() -> None:
    worth = learned(every(0, 2), 2, 400)

    tokens = worth.note([(key("B"), pending(0, 9, line(2)))], MAX_NODES, {A, key("B")})

    assert tokens == pytest.approx(2.0, abs=0.05)  # 1 + 1/2 + 1/2


def test_a_round_that_was_missed_teaches_nothing() -> None:
    worth = RowWorth()
    for round_ in range(0, 200, 2):  # every other round went elsewhere
        worth.note([(A, pending(round_, 1 + 3 * round_, line(3)))], MAX_NODES, {A})

    assert not worth.is_known


def test_sessions_that_are_gone_are_forgotten() -> None:
    worth = RowWorth()
    for number in range(4 * GONE_KEPT):
        one = SessionKey(A.edge, key(number=number).session)
        worth.note([(one, pending(0, 1, line(2)))], 8, {one})

    assert len(worth._last) <= GONE_KEPT + 2


def test_sessions_that_live_are_remembered_however_many_they_are() -> None:
    keys = [SessionKey(A.edge, key(number=number).session) for number in range(4 * GONE_KEPT)]
    worth = RowWorth()
    for round_ in range(2):
        for one in keys:
            worth.note([(one, pending(round_, 1 + 2 * round_, line(2)))], 8, set(keys))

    assert worth.is_known  # what each one's first round yielded was learned from its second
