"""What goes into a step, and which batches still have rounds here."""

from dataclasses import replace

import numpy as np
import pytest

from specedge.ids import SessionKey
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.messages import Batch
from specedge.protocol.prefill_share import plan_chunks, room_for_decoding
from specedge.protocol.step_plan import StepRoom, num_rows, plan_step
from specedge.protocol.verifier_effects import WantStep
from specedge.tree.token_tree import TokenTree
from tests.unit.scheduler_facts import key


def a_round(nodes: int, *, is_hosted: bool = False) -> WantStep:
    tree = TokenTree.from_parents([1] * (nodes + 1), [-1, *range(nodes)])
    return WantStep(4, np.ones(1, dtype=np.int32), tree, None, is_hosted)


def a_prefill(tokens: int) -> WantStep:
    return WantStep(0, np.ones(tokens, dtype=np.int32), None, None)


def planned(wants: list[WantStep], max_step_tokens: int) -> dict[int, int]:
    """By number of the want: how much of its chain is taken."""
    keys: dict[SessionKey, WantStep] = {key("A", n): want for n, want in enumerate(wants)}
    return {
        int(one.key.session, 16): one.num_chain
        for one in plan_step(keys, StepRoom(max_step_tokens))
    }


def test_rounds_come_first_then_hosted_rows_and_prefill_takes_what_is_left() -> None:
    wants = [a_prefill(1000), a_round(0, is_hosted=True), a_round(9)]

    keys = [key("A", number) for number in range(3)]
    plan = plan_step(dict(zip(keys, wants, strict=True)), StepRoom(64))

    assert [int(one.key.session, 16) for one in plan] == [2, 1, 0]
    assert plan[-1].num_chain == 64 - 10 - 1


def test_a_step_is_not_over_its_rows() -> None:
    wants = [a_round(9) for _ in range(20)] + [a_prefill(500)]

    plan = planned(wants, 64)

    rows = sum(num_rows(wants[n]) if wants[n].tree is not None else c for n, c in plan.items())
    assert rows <= 64


def test_rounds_that_do_not_fit_wait_their_turn_in_order() -> None:
    wants = [a_round(9) for _ in range(20)]

    assert list(planned(wants, 64)) == [0, 1, 2, 3, 4, 5]


def test_a_round_larger_than_a_step_goes_alone() -> None:
    assert planned([a_round(99), a_round(1)], 64) == {0: 1}


def test_however_many_rounds_wait_a_prefill_moves_on() -> None:
    wants = [a_round(9) for _ in range(20)] + [a_prefill(500)]

    assert planned(wants, 64)[20] >= 64 // 8


def test_without_prefill_rounds_have_the_whole_step() -> None:
    assert room_for_decoding(64, prefill_waits=False) == 64
    assert room_for_decoding(64, prefill_waits=True) == 56


def hosted_nodes(wants: list[WantStep], room: StepRoom) -> dict[int, int]:
    """By number of the hosted round in the step: nodes that may be drafted for it."""
    keys = {key("A", number): want for number, want in enumerate(wants)}
    return {
        int(one.key.session, 16): one.num_nodes
        for one in plan_step(keys, room)
        if keys[one.key].is_hosted
    }


def test_drafts_of_hosted_rounds_share_the_room_that_roots_leave() -> None:
    wants = [a_round(0, is_hosted=True) for _ in range(3)]

    assert hosted_nodes(wants, StepRoom(64, hosted_nodes=32)) == {0: 21, 1: 20, 2: 20}
    assert hosted_nodes(wants, StepRoom(200, hosted_nodes=32)) == {0: 32, 1: 32, 2: 32}
    assert hosted_nodes(wants, StepRoom(3, hosted_nodes=32)) == {0: 0, 1: 0, 2: 0}
    assert hosted_nodes(wants, StepRoom(64)) == {0: 0, 1: 0, 2: 0}


@pytest.mark.parametrize("num_edges", [0, 1, 6, 20])
@pytest.mark.parametrize("num_hosted", [1, 5, 30])
@pytest.mark.parametrize("prefill", [0, 500])
def test_a_step_with_hosted_drafts_is_not_over_its_rows(
    num_edges: int, num_hosted: int, prefill: int
) -> None:
    wants = [a_round(9) for _ in range(num_edges)]
    wants += [a_round(0, is_hosted=True) for _ in range(num_hosted)]
    wants += [a_prefill(prefill)] if prefill else []
    keys = {key("A", number): want for number, want in enumerate(wants)}

    plan = plan_step(keys, StepRoom(64, hosted_nodes=32, hosted_share=0.5))

    rows = {one.key: num_rows(keys[one.key]) + one.num_nodes for one in plan}
    rows |= {one.key: one.num_chain for one in plan if keys[one.key].tree is None}
    assert sum(rows.values()) <= 64
    assert any(keys[one.key].is_hosted for one in plan), "hosted rounds go on"
    assert num_edges == 0 or any(keys[key] is wants[0] for key in rows)
    assert not prefill or any(keys[key] is wants[-1] for key in rows)


def test_while_edges_drafts_wait_hosted_rounds_take_no_more_than_their_share() -> None:
    hosted = [a_round(0, is_hosted=True) for _ in range(10)]
    room = StepRoom(64, hosted_nodes=32, hosted_share=0.25)

    beside = hosted_nodes([*hosted, a_round(3)], room)
    alone = hosted_nodes(hosted, room)

    assert len(beside) + sum(beside.values()) == 16
    assert len(alone) + sum(alone.values()) == 64


def test_hosted_rounds_that_found_no_room_are_first_in_the_next_step() -> None:
    wants = {key("A", n): a_round(0, is_hosted=True) for n in range(6)}
    room = StepRoom(4)

    first = [one.key for one in plan_step(wants, room)]
    waiting = {one: want for one, want in wants.items() if one not in first}
    second = [one.key for one in plan_step({**waiting, **wants}, room)]

    assert set(second[:2]) == set(waiting)


def a_beginning(tokens: int, *, is_hosted: bool) -> WantStep:
    """A round whose session's prompt was read but for so many tokens."""
    return replace(a_round(0, is_hosted=is_hosted), chain=np.ones(tokens, dtype=np.int32))


@pytest.mark.parametrize("is_hosted", [False, True])
@pytest.mark.parametrize("prompt_rows", [None, 32])
def test_newcomers_with_short_prompts_stop_nobody_and_all_get_their_turn(
    is_hosted: bool, prompt_rows: int | None
) -> None:
    going_on = key("Z")
    waiting = {key("A", n): a_beginning(60, is_hosted=is_hosted) for n in range(24)}
    room, steps = StepRoom(128, prompt_rows=prompt_rows), 0

    while waiting:
        # It asks anew after each step, so that all others stand before it.
        wants = waiting | {going_on: a_round(0, is_hosted=is_hosted)}
        plan = plan_step(wants, room)
        assert plan[0].key == going_on
        assert sum(num_rows(wants[one.key]) for one in plan) <= 128
        first = next(iter(waiting))
        assert plan[1].key == first, "those that begin take turns"
        for one in plan[1:]:
            del waiting[one.key]
        steps += 1

    assert steps == (12 if prompt_rows is None else 24)


def test_where_nobody_generates_prompts_have_the_whole_step() -> None:
    keys = {key("A"): a_prefill(500), key("B"): a_prefill(500)}
    room = StepRoom(128, prompt_rows=32)

    assert sum(one.num_chain for one in plan_step(keys, room)) == 128
    beside = plan_step(keys | {key("C"): a_round(3)}, room)
    assert [one.num_chain for one in beside] == [1, 16, 16]


@pytest.mark.parametrize(
    ("remaining", "room", "chunks"),
    [
        ([100], 30, [30]),
        ([10], 30, [10]),
        ([100, 100], 30, [15, 15]),
        ([5, 100], 30, [5, 25]),
        ([100, 5, 100], 35, [15, 5, 15]),
        ([100, 100, 100], 31, [11, 10, 10]),
        ([9, 9, 9], 2, [1, 1, 0]),
        ([1000, 5, 7, 6], 2, [1, 1, 0, 0]),
        ([9], 0, [0]),
        ([], 10, []),
    ],
)
def test_prefills_share_the_room_and_short_ones_end_first(
    remaining: list[int], room: int, chunks: list[int]
) -> None:
    assert plan_chunks(remaining, room) == chunks


def a_batch(seq: int, epoch: tuple[int, int] = (1, 0)) -> Batch:
    return Batch(epoch=epoch, seq=seq, items=())


def test_a_batch_is_held_until_its_last_round_is_settled() -> None:
    ledger = BatchLedger()
    assert ledger.admit(a_batch(1))
    ledger.add(1, key("A"))
    ledger.add(1, key("B"))
    ledger.settle(key("A"))
    assert ledger.held == (1,)

    ledger.settle(key("B"))
    ledger.settle(key("B"))

    assert ledger.held == ()
    assert ledger.last == 1


def test_what_began_is_the_batch_of_the_round_that_went_into_a_step_and_not_the_last_one() -> None:
    ledger = BatchLedger()
    for seq, session in ((1, key("A")), (2, key("B")), (3, key("C"))):
        ledger.admit(a_batch(seq))
        ledger.add(seq, session)

    ledger.begin(key("B"))
    ledger.begin(key("A"))

    assert (ledger.begun, ledger.last) == (2, 3)


def test_batches_of_an_earlier_term_are_not_admitted() -> None:
    ledger = BatchLedger()
    ledger.admit(a_batch(7, (2, 0)))

    assert not ledger.admit(a_batch(8, (1, 9)))
    assert (ledger.epoch, ledger.last) == ((2, 0), 7)


def test_a_new_term_counts_its_own_batches() -> None:
    ledger = BatchLedger()
    ledger.admit(a_batch(7))
    ledger.add(7, key())

    assert ledger.admit(a_batch(1, (2, 0)))

    assert (ledger.epoch, ledger.last, ledger.held) == ((2, 0), 1, ())
