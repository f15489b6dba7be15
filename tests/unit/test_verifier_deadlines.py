"""The verifier's end of a session: how long a round may wait, and what gives it more time."""

import numpy as np
import pytest

from specedge.protocol.codec import batch_item, encode
from specedge.protocol.effects import TimerDue
from specedge.protocol.messages import Batch, Draft, Progress, Rejected, Verdict
from specedge.protocol.opening import Reason
from specedge.protocol.subjects import Work
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verifier_effects import Reply, SlotGiven, StepBegun, Stepped, WantSlot
from tests.unit.scheduler_facts import key
from tests.unit.test_verifier_intake import PARAMS, PROMPT, Desk
from tests.unit.verifier_bench import Bench, find, reply_in, step_in


def test_an_item_with_a_50_ms_budget_behind_a_200_ms_step_is_rejected_as_expired() -> None:
    desk = Desk()
    desk.ready(key("A"))
    draft = Draft(base=4, hash=TokenLog(PARAMS, PROMPT).hash_at(4), round=0, budget_ms=600)
    item = batch_item(draft, key("A"), budget_ms=50, held_ms=0.0)

    desk.hear(Work.BATCH, encode(Batch(epoch=(1, 0), seq=1, items=(item,))))
    desk.clock.advance(0.04)
    assert not desk.said, "it has time yet"
    desk.clock.advance(0.16)  # of the step that it is not in

    ((session, rejected),) = desk.said
    assert session == key("A")
    assert isinstance(rejected, Rejected)
    assert rejected.rejected is Reason.EXPIRED
    assert not desk.table.wants
    assert desk.ledger.held == ()


def test_a_draft_waiting_for_a_context_that_keeps_coming_is_admitted_after_its_first_budget() -> (
    None
):
    bench = Bench()
    bench.on(bench.context(off=0, end=3))
    bench.on(bench.work(budget_ms=600))

    for off in (3, 5, 7):
        assert reply_in(bench.on(TimerDue(), 0.25), Progress)
        bench.on(bench.context(off=off, end=off + 2))
    effects = bench.on(bench.context(off=9), after_s=0.2)

    assert bench.now_s > 0.6
    assert find(effects, WantSlot)
    assert not find(effects, Reply)
    bench.on(SlotGiven())
    assert step_in(bench.step(num_chain=9)).tree is not None, "the round itself"


def test_a_round_behind_its_sessions_own_long_step_is_admitted_after_its_first_budget() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    bench.on(StepBegun(1))
    bench.on(bench.work(5, round_=1, budget_ms=600))

    for _ in range(3):
        assert reply_in(bench.on(TimerDue(), 0.25), Progress).round == 1
    effects = bench.on(Stepped(np.asarray([5], dtype=np.int32)), after_s=0.1)

    assert bench.now_s > 0.6
    assert reply_in(effects, Verdict).round == 0
    assert step_in(effects).chain.tolist() == [5]


def test_the_second_try_of_a_waiting_round_lives_on_its_own_budget() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(budget_ms=100))
    bench.now_s += 0.05
    bench.on(bench.work(try_=1, budget_ms=150))

    assert not find(bench.on(TimerDue(), 0.05), Reply), "the first one's time alone is over"
    rejected = reply_in(bench.on(TimerDue(), 0.1), Rejected)

    assert bench.now_s == pytest.approx(0.2)
    assert (rejected.try_, rejected.rejected) == (1, Reason.EXPIRED)
