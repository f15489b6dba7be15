"""Batches just in time, decision by decision."""

from collections.abc import Sequence

import pytest

from specedge.ids import GroupId, SessionKey, VerifierId
from specedge.protocol.reports import StepReport
from specedge_scheduler.policy.decide import SchedulerPolicy
from specedge_scheduler.policy.types import (
    DraftArrived,
    EndingArrived,
    SchedulerLimits,
    SendBatch,
    StatArrived,
    TurnEnded,
)
from tests.unit.scheduler_facts import draft, key, stat

V = VerifierId("v1")
STEP_S = 0.1
A, B, C, D = (key(letter) for letter in "ABCD")


class Desk:
    """A policy and one verifier, whose steps take a tenth of a second, or as long as is said."""

    def __init__(self, sessions: int = 2, **limits: object) -> None:
        given = SchedulerLimits(max_batch_sessions=sessions, **limits)  # type: ignore[arg-type]
        self.policy = SchedulerPolicy(GroupId("main"), (1, 0), given)
        self.now_s = 100.0
        self.rounds: dict[SessionKey, int] = {}
        self.held: list[int] = []
        self.sent: list[SendBatch] = []
        self.step_rows = 0
        self._stats = self._steps = self._last = 0
        self.report()
        for _ in range(20):  # it learns how long steps take
            self.step(A)
        self.now_s += 10.0
        self.policy.on(EndingArrived(A, "close", b""), self.now_s)
        self.beat()

    def tell(self, *events: DraftArrived | StatArrived) -> list[SendBatch]:
        sent = []
        for event in (*events, TurnEnded()):
            for effect in self.policy.on(event, self.now_s):
                if isinstance(effect, SendBatch):
                    sent.append(effect)
                    self.held.append(effect.batch.seq)
                    self._last = effect.batch.seq
        self.sent += sent
        return sent

    def draft(self, *sessions: SessionKey, nodes: int = 3, run: int = 0) -> list[SendBatch]:
        events = []
        for session in sessions:
            self.rounds[session] = self.rounds.get(session, -1) + 1
            one = draft(self.rounds[session], nodes=nodes, budget_ms=20_000)
            one = one.model_copy(update={"base": 5 + 3 * one.round, "run": run})
            events.append(DraftArrived(session, one))
        return self.tell(*events)

    def report(
        self, step_s: float | None = None, running: int = 0, **more: float
    ) -> list[SendBatch]:
        """A heartbeat, or the end of a step that took so long, of which ``more`` is reported;
        ``running`` rows are in the next."""
        steps: Sequence[StepReport] = ()
        if step_s is not None:
            step = StepReport(
                seq=self._steps, rows=4, prefill=0, context=9, sessions=1, ms=1000 * step_s
            )
            steps = (step.model_copy(update=more),)
            self._steps += 1
        self._stats += 1
        told = stat(
            self._stats, batches=self.held, last=self._last, steps=tuple(steps), slots=64,
            step_rows=self.step_rows,
        )  # fmt: skip
        begun = self._last if running else 0
        update = {"running": running, "begun": begun}
        return self.tell(StatArrived(V, told.model_copy(update=update)))

    def beat(self) -> list[SendBatch]:
        return self.report(running=4 * len(self.held))

    def step(self, *sessions: SessionKey, step_s: float = STEP_S) -> None:
        """One round of these, alone, from draft to verdict."""
        self.draft(*sessions)
        self.now_s += step_s
        self.held.clear()
        self.report(step_s)
        self.now_s += 0.05  # their edges draft

    def end_step(self, step_s: float = STEP_S) -> list[SendBatch]:
        """The running step ends; what is staged begins."""
        self.held = self.held[1:]
        return self.report(step_s, running=4 * len(self.held))

    def wake(self, by_s: float) -> list[SendBatch]:
        """Time passes; the policy is woken as it asked."""
        end_s, sent = self.now_s + by_s, []
        while (due_s := self.policy.next_due_s()) <= end_s:
            self.now_s = max(due_s, self.now_s + 1e-5)
            sent += self.tell()
        self.now_s = end_s
        return sent


def sessions_in(batch: SendBatch) -> set[SessionKey]:
    return {key(item.e[1]) for item in batch.batch.items}


def test_who_is_alone_never_waits() -> None:
    desk = Desk()

    (batch,) = desk.draft(B)

    assert batch.reason == "idle"
    assert batch.batch.items[0].held_ms == 0.0


def test_while_a_step_runs_rounds_wait_until_just_before_its_end() -> None:
    desk = Desk()
    desk.draft(B)
    desk.now_s += 0.03

    assert not desk.draft(C)
    assert not desk.wake(0.05)
    (batch,) = desk.wake(0.02)

    assert sessions_in(batch) == {C}
    assert batch.reason == "due"
    assert 60 <= batch.batch.items[0].held_ms < 70


def test_rounds_wait_too_while_the_verifier_drafts_for_sessions_of_its_own() -> None:
    desk = Desk()
    desk.report(STEP_S, running=4, draft_ms=50.0)
    desk.now_s += 0.06
    desk.draft(C)

    assert not desk.wake(0.07)
    (batch,) = desk.wake(0.03)

    assert batch.reason == "due"


def test_who_comes_before_the_step_begins_still_finds_a_place() -> None:
    desk = Desk()
    desk.draft(B)
    desk.draft(C)
    desk.wake(0.099)

    (batch,) = desk.draft(D)
    desk.draft(A)

    assert batch.reason == "topped_up"
    assert A in desk.policy.cluster.waiting  # the step that is staged is full


def test_a_full_batch_goes_a_little_earlier_and_no_more_than_one_is_staged() -> None:
    desk = Desk()
    desk.draft(B)
    desk.draft(C, D, A)

    (batch,) = desk.wake(0.095)
    later = desk.wake(0.05)

    assert batch.reason == "full"
    assert len(batch.batch.items) == 2
    assert not later


def test_the_steps_end_brings_the_next_batch_forward_when_it_was_sooner_than_expected() -> None:
    desk = Desk()
    desk.draft(B)
    desk.now_s += 0.03
    desk.draft(C)

    (batch,) = desk.end_step()

    assert sessions_in(batch) == {C}


def test_rounds_are_held_for_one_that_is_nearly_here() -> None:
    desk = Desk()
    for _ in range(12):
        desk.step(B, C)  # both come back 50 ms after their step
    desk.draft(B, C)
    desk.now_s += STEP_S
    desk.end_step()
    desk.now_s += 0.048

    assert not desk.draft(B)
    desk.now_s += 0.003
    (batch,) = desk.draft(C)

    assert sessions_in(batch) == {B, C}


def test_who_does_not_come_is_not_waited_for_long() -> None:
    desk = Desk()
    for _ in range(12):
        desk.step(B, C)
    desk.draft(B, C)
    desk.now_s += STEP_S
    desk.end_step()
    desk.now_s += 0.048

    assert not desk.draft(B)
    (batch,) = desk.wake(0.1)

    assert sessions_in(batch) == {B}
    assert batch.batch.items[0].held_ms < 20


def test_a_crowd_is_split_where_that_hides_what_edges_take() -> None:
    desk = Desk(sessions=0)
    crowd = [key(letter) for letter in "BCDEFGHI"]
    for num in (1, 2, 4, 8) * 8:  # rows are dear here: twice as many take twice as long
        desk.draft(*crowd[:num])
        desk.wake(0.3)
        while desk.held:
            desk.held.clear()
            desk._steps += 1
            seq = desk._steps
            report = StepReport(
                seq=seq, rows=4 * num, prefill=0, context=9, sessions=num, ms=40.0 * num
            )
            told = stat(1000 + seq, last=desk._last, steps=(report,), slots=64)
            desk.tell(StatArrived(V, told))
        desk.now_s += 0.3

    (batch,) = desk.draft(*crowd)

    assert batch.reason == "split"
    assert len(batch.batch.items) == 4


def test_verdicts_tell_when_the_next_draft_is_wanted_if_others_fill_the_step_between() -> None:
    desk = Desk()
    for pair in ((B, C), (A, D)):
        for _ in range(12):
            desk.step(*pair)  # they come back sooner than the others' step would end
    desk.draft(B, C)
    desk.draft(A, D)
    (batch,) = desk.wake(0.099)

    told_ms = [item.next_ms for item in batch.batch.items]

    assert all(80 < ms < 100 for ms in told_ms), told_ms


def test_who_comes_late_to_a_step_is_told_the_same_as_those_who_were_there() -> None:
    desk = Desk()
    for pair in ((B, C), (A, D)):
        for _ in range(12):
            desk.step(*pair)
    desk.draft(B, C)
    desk.draft(A)
    desk.wake(0.099)
    (batch,) = desk.draft(D)

    assert batch.reason == "topped_up"
    assert 80 < batch.batch.items[0].next_ms < 100


def test_where_a_step_is_one_round_a_verdict_leaves_its_edge_the_whole_step_between() -> None:
    desk = Desk(sessions=1)  # it waits for whoever is late, and for nobody else
    for one in (B, A) * 12:  # each drafts while the other is verified
        (batch,) = desk.draft(one)
        desk.now_s += STEP_S
        desk.held.clear()
        desk.report(STEP_S)

    told_ms = [item.next_ms for item in batch.batch.items]

    assert told_ms == [pytest.approx(100.0, abs=0.05)]


def test_where_several_steps_of_one_round_lie_between_a_batchs_lead_is_left() -> None:
    desk = Desk(sessions=1)
    for one in (B, A, C) * 12:
        (batch,) = desk.draft(one)
        desk.now_s += STEP_S
        desk.held.clear()
        desk.report(STEP_S)

    (told_ms,) = [item.next_ms for item in batch.batch.items]

    assert 180 < told_ms < 199.9, "two steps of 100 ms, less the lead"


def test_a_lone_session_is_told_nothing() -> None:
    desk = Desk()

    (batch,) = desk.draft(B)

    assert batch.batch.items[0].next_ms == 0.0


def test_drafts_are_cut_to_their_best_nodes_when_more_wait_than_fit() -> None:
    desk = Desk(sessions=8)
    desk.step_rows = 24
    desk.beat()

    (batch,) = desk.draft(A, B, C, D, nodes=9)

    assert [len(item.token) for item in batch.batch.items] == [5, 5, 5, 5]
    assert [len(item.parent) for item in batch.batch.items] == [5, 5, 5, 5]
    assert batch.num_nodes == 24


def test_grants_go_at_once_whatever_runs_or_is_staged() -> None:
    for policy in ("jit", "static"):
        desk = Desk(policy=policy)
        desk.draft(B, C)

        (batch,) = desk.draft(D, nodes=0, run=8)

        assert batch.reason == "hosted"


def test_a_batch_attends_over_no_more_context_than_is_allowed() -> None:
    desk = Desk(sessions=0, max_batch_context=20)

    (batch,) = desk.draft(B, C, D)  # each attends over nine rows

    assert len(batch.batch.items) == 2


@pytest.mark.parametrize("policy", ["jit", "greedy"])
def test_who_joins_a_staged_batch_finds_the_context_that_it_leaves(policy: str) -> None:
    desk = Desk(sessions=0, max_batch_context=20, policy=policy)
    desk.draft(A)
    desk.now_s += STEP_S - 0.004
    staged = [*desk.wake(0.001), *desk.draft(B)]

    joined = desk.draft(C, D)

    assert [sessions_in(batch) for batch in staged] == [{B}]
    assert [sessions_in(batch) for batch in joined] == [{C}], "eighteen rows of twenty"


@pytest.mark.parametrize(("kept", "rows"), [({}, 16), ({"prefill": 3}, 14), ({"hosted": 1}, 15)])
def test_a_batch_leaves_room_for_what_else_its_verifier_goes_on_with(
    kept: dict[str, int], rows: int
) -> None:
    desk = Desk(sessions=0)
    desk.step_rows = 16
    desk.report(STEP_S, **kept)

    (batch,) = desk.draft(A, B, C, D)  # four rows each

    assert batch.num_nodes <= rows
    assert batch.num_nodes > rows - 4


def test_the_barrier_waits_for_its_group_but_not_for_ever() -> None:
    desk = Desk(policy="static")
    desk.draft(B, C)
    desk.now_s += STEP_S
    desk.end_step()

    assert not desk.draft(B)
    waited_s, sent = 0.0, []
    while not sent:
        sent = desk.wake(0.1)
        waited_s += 0.1
        desk.beat()

    assert sessions_in(sent[0]) == {B}
    assert 9.8 < waited_s < 10.2  # half of the twenty seconds that B's round has


def test_the_barrier_does_not_wait_for_who_is_hosted() -> None:
    desk = Desk(policy="static")
    desk.draft(B, run=16)  # it goes at once, and on by itself
    desk.held.clear()
    desk.beat()

    (batch,) = desk.draft(C)

    assert sessions_in(batch) == {C}


def dear_rows(desk: Desk, row_ms: float) -> None:
    """Reports from which the desk learns that a row costs so much."""
    for number in range(60):
        rows = 8 + 4 * number % 400
        desk._steps += 1
        report = StepReport(
            seq=desk._steps, rows=rows, prefill=0, context=9, sessions=1, ms=100 + row_ms * rows
        )
        told = stat(1000 + number, last=desk._last, steps=(report,), slots=64)
        desk.tell(StatArrived(V, told))


@pytest.mark.parametrize(("row_ms", "sizes"), [(0.001, [20, 20]), (20.0, [4, 4])])
def test_a_draft_is_cut_where_its_rows_cost_more_than_they_yield(
    row_ms: float, sizes: list[int]
) -> None:
    desk = Desk()  # two of three tokens of each draft were right so far
    dear_rows(desk, row_ms)
    for _ in range(40):
        desk.step(A, B, step_s=0.1 + 4 * row_ms / 1000)
    dear_rows(desk, row_ms)

    (batch,) = desk.draft(C, D, nodes=20)

    assert [len(item.token) for item in batch.batch.items] == sizes


def test_rounds_that_come_long_before_a_batch_is_formed_are_only_noted() -> None:
    desk = Desk()
    desk.draft(A)
    desk.beat()
    desk.draft(B)  # far from the step's end: the answer is "not yet", whoever else comes
    began = desk.policy.cluster.verifiers[V].deaf_until_s

    event = DraftArrived(C, draft(0, budget_ms=20_000))
    desk.policy.on(event, desk.now_s)

    assert began > desk.now_s
    assert V not in desk.policy.cluster.changed
    assert {one for batch in desk.wake(0.3) for one in sessions_in(batch)} >= {B, C}


def test_a_report_makes_a_verifier_heard_again() -> None:
    desk = Desk()
    desk.draft(A)
    desk.beat()
    desk.draft(B)

    desk.end_step()  # sooner than was expected

    assert {one for batch in desk.sent for one in sessions_in(batch)} >= {A, B}
