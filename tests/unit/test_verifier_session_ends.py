"""The verifier's end of a session: where its sequence ends, and what ends it from outside."""

import numpy as np
import pytest

from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import Verdict
from specedge.protocol.verifier_effects import (
    DropSlot,
    EndingArrived,
    Gone,
    SlotDenied,
    SlotGiven,
    StepBegun,
    StepFailed,
    Stepped,
    VerifierEvent,
    WantSlot,
    Withdraw,
)
from specedge.protocol.verifier_states import VerifierState
from tests.unit.verifier_bench import PROMPT, Bench, find, reply_in

# ---------------------------------------------------------------- where a sequence ends


def test_a_stop_id_on_the_path_cuts_the_verdict_and_frees_the_slot() -> None:
    bench = Bench(stop=(2,))
    bench.ready()
    bench.on(bench.work(token=(2, 8), parent=(-1, 0)))

    effects = bench.step(2, 8, 9)

    verdict = reply_in(effects, Verdict)
    assert (verdict.path, verdict.bonus, verdict.final) == ((), 2, "stop")
    (dropped,) = find(effects, DropSlot)
    assert dropped.tokens.tolist() == PROMPT
    assert len(dropped.tokens) == 10
    assert not bench.session.has_slot


def test_a_stop_id_does_not_count_before_min_tokens() -> None:
    bench = Bench(stop=(2,), min_tokens=2)
    bench.ready()
    bench.on(bench.work(token=(2, 2), parent=(-1, 0)))

    verdict = reply_in(bench.step(2, 2, 2), Verdict)

    assert (verdict.path, verdict.bonus, verdict.final) == ((2, 2), 2, "stop")


def test_max_tokens_cuts_the_verdict() -> None:
    bench = Bench(max_tokens=2)
    bench.ready()
    bench.on(bench.work(token=(7, 8), parent=(-1, 0)))

    verdict = reply_in(bench.step(7, 8, 9), Verdict)

    assert (verdict.path, verdict.bonus, verdict.final) == ((7,), 8, "length")


def test_the_final_verdict_is_given_again_without_a_slot() -> None:
    bench = Bench(max_tokens=1)
    bench.ready()
    bench.on(bench.work())
    bench.step(7)

    effects = bench.on(bench.work(try_=1))

    assert reply_in(effects, Verdict).final == "length"
    assert not find(effects, WantSlot)


# ---------------------------------------------------------------- the end


def test_an_ending_frees_the_slot_at_once_with_its_valid_rows() -> None:
    bench = Bench()
    bench.ready(1)
    bench.on(bench.work(1))

    effects = bench.on(EndingArrived())

    assert [type(effect) for effect in effects] == [SetTimer, Withdraw, DropSlot, Gone]
    assert find(effects, DropSlot)[0].tokens.tolist() == PROMPT
    assert bench.session.state is VerifierState.GONE
    assert bench.on(bench.work(1, try_=1)) == []


@pytest.mark.parametrize("outcome", [Stepped(np.asarray([5], dtype=np.int32)), StepFailed("no")])
def test_an_ending_during_a_step_frees_the_slot_after_it(outcome: VerifierEvent) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))

    assert not find(bench.on(EndingArrived()), DropSlot | Gone)
    assert bench.session.state is VerifierState.ENDING
    assert bench.on(bench.context(1, round_=2)) == []
    assert bench.on(TimerDue()) == []

    assert [type(effect) for effect in bench.on(outcome)] == [DropSlot, Gone]


@pytest.mark.parametrize(("answer", "kinds"), [
    (SlotGiven(), [DropSlot, Gone]), (SlotDenied(9), [Gone])
])  # fmt: skip
def test_an_ending_while_a_slot_is_asked_for_leaks_none(
    answer: VerifierEvent, kinds: list[type]
) -> None:
    bench = Bench()
    bench.on(bench.context())

    assert bench.session.state is VerifierState.FILLING
    assert not find(bench.on(EndingArrived()), Gone)
    assert [type(effect) for effect in bench.on(answer)] == kinds


def test_an_ending_without_anything_held_is_just_gone() -> None:
    bench = Bench()

    assert bench.on(EndingArrived()) == [Gone()]
    assert bench.session.committed.tolist() == []
