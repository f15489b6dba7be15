"""The verifier's end of a session: drafts sent ahead of a verdict."""

from dataclasses import replace

import numpy as np
import pytest

from specedge.protocol.messages import Ahead, Rejected, Verdict
from specedge.protocol.opening import Reason
from specedge.protocol.verifier_effects import (
    AheadArrived,
    Reply,
    StepBegun,
    StepFailed,
    Stepped,
    VerifierEffect,
    WantStep,
)
from specedge.protocol.verifier_states import VerifierState
from tests.unit.verifier_bench import IDENTITY, PROMPT, Bench, find, reply_in, step_in


class AheadBench(Bench):
    """A round with the draft 7 is in its step. Ahead of its verdict were drafted, below 7: 8 with
    1 and 2 below it."""

    def __init__(self, *said: int, next_ms: float = 0.0, **params: object) -> None:
        super().__init__(**params)
        self.ready(*said)
        work = self.work(*said, token=(7,), parent=(-1,))
        self.on(replace(work, item=work.item.model_copy(update={"next_ms": next_ms})))
        self.on(StepBegun(1))

    def ahead(self, *tokens: int, **changed: object) -> AheadArrived:
        log = self.log(*tokens)
        fields = {
            "round": 0, "base": len(log), "hash": log.hash_at(len(log)), "nodes": 4,
            "token": (7, 8, 1, 2), "parent": (-1, 0, 1, 2),
        }  # fmt: skip
        return AheadArrived(Ahead(**{**fields, **changed}))

    def end_step(self, *choice: int) -> list[VerifierEffect]:
        return self.on(Stepped(np.asarray(choice, dtype=np.int32)))


def test_a_verdict_that_leads_into_what_was_sent_ahead_is_followed_by_the_next_round_at_once() -> (
    None
):
    bench = AheadBench()
    bench.on(bench.ahead())
    assert bench.session.expects_more

    effects = bench.end_step(7, 8)

    verdict, step = reply_in(effects, Verdict), step_in(effects)
    assert (verdict.path, verdict.bonus, verdict.ahead) == ((7,), 8, 2)
    assert (step.start, step.chain.tolist()) == (len(PROMPT) + 1, [8])
    assert (step.tree.token.tolist(), step.tree.parent.tolist()) == ([8, 1, 2], [-1, 0, 1])
    assert step.is_ahead
    assert bench.session.rows_ahead == 3
    second = reply_in(bench.step(1, 2, 3), Verdict)
    assert (second.round, second.try_, second.kept, second.ahead) == (1, 0, 2, 0)
    assert (second.path, second.bonus) == ((1, 2), 3)
    assert bench.session.rows_ahead == 0


def test_a_round_sent_ahead_was_held_by_nobody_and_says_nothing_of_the_next() -> None:
    bench = AheadBench(next_ms=12.5)
    bench.on(bench.ahead())

    first = reply_in(bench.end_step(7, 8), Verdict)
    second = reply_in(bench.step(1, 2, 3), Verdict)

    assert (first.timing.held, first.timing.next) == (1.5, 12.5)
    assert (second.timing.held, second.timing.next) == (0.0, 0.0)


def test_no_more_of_it_is_tried_than_the_edge_asks_for() -> None:
    bench = AheadBench()
    bench.on(bench.ahead(nodes=1))

    effects = bench.end_step(7, 8)

    assert reply_in(effects, Verdict).ahead == 1
    assert step_in(effects).tree.token.tolist() == [8, 1]


@pytest.mark.parametrize(
    ("choice", "changed"),
    [
        ((7, 9), {}),  # the verdict leads elsewhere
        ((7, 1), {"token": (7, 1), "parent": (-1, 0)}),  # nothing hangs below
        ((7, 8), {"nodes": 0}),
        ((7, 8), {"round": 1}),
        ((7, 8), {"hash": "0" * 16}),
        ((7, 8), {"token": (7, 8, 1, 50)}),  # not in the vocabulary
        ((7, 8), {"token": (7, 8, *range(5)), "parent": (-1, 0, 1, 1, 1, 1, 1)}),  # too large
    ],
)
def test_what_does_not_fit_is_as_if_it_had_never_come(
    choice: tuple[int, int], changed: dict[str, object]
) -> None:
    bench = AheadBench()
    assert bench.on(bench.ahead(**changed)) == []

    effects = bench.end_step(*choice)

    assert reply_in(effects, Verdict).ahead == 0
    assert find(effects, WantStep) == []
    assert bench.session.state is VerifierState.READY


@pytest.mark.parametrize(("num_left", "num_ahead"), [(3, 0), (4, 2)])
def test_what_leads_past_the_models_last_position_is_as_if_it_had_never_come(
    num_left: int, num_ahead: int
) -> None:
    said = [1] * (IDENTITY.max_context - len(PROMPT) - num_left)
    bench = AheadBench(*said, max_tokens=50)
    bench.on(bench.ahead(*said))

    effects = bench.end_step(7, 8)

    assert reply_in(effects, Verdict).ahead == num_ahead


def test_what_comes_after_the_verdict_is_too_late() -> None:
    bench = AheadBench()
    bench.end_step(7, 8)

    assert bench.on(bench.ahead()) == []
    assert bench.session.counters["ahead_out_of_turn"] == 1


def test_a_final_verdict_is_followed_by_nothing() -> None:
    bench = AheadBench(stop=(8,))
    bench.on(bench.ahead())

    effects = bench.end_step(7, 8)

    verdict = reply_in(effects, Verdict)
    assert (verdict.final, verdict.ahead) == ("stop", 0)
    assert find(effects, WantStep) == []


def test_a_lost_verdict_is_said_again_with_the_one_that_followed_from_what_was_sent_ahead() -> None:
    bench = AheadBench()
    again = bench.work(try_=1, token=(7,), parent=(-1,))
    bench.on(bench.ahead())
    first = reply_in(bench.end_step(7, 8), Verdict)
    bench.on(StepBegun(1))

    meanwhile = reply_in(bench.on(again), Verdict)
    bench.on(Stepped(np.asarray((1, 2, 3), dtype=np.int32)))
    later = [one.message for one in find(bench.on(bench.work(try_=2)), Reply)]

    assert meanwhile == first.model_copy(update={"try_": 1})
    assert [(one.round, one.try_) for one in later] == [(0, 2), (1, 0)]
    assert later[0].ahead == 2


def test_the_round_said_as_a_draft_while_it_is_tried_is_the_same_round() -> None:
    bench = AheadBench()
    bench.on(bench.ahead())
    bench.end_step(7, 8)
    said = bench.work(7, 8, round_=1, try_=1, token=(1, 2), parent=(-1, 0))

    assert find(bench.on(said), WantStep) == []
    verdict = reply_in(bench.step(1, 2, 3), Verdict)

    assert (verdict.round, verdict.try_, verdict.path) == (1, 1, (1, 2))


def test_a_step_that_fails_for_it_is_said_by_its_round_so_that_the_edge_says_it_again() -> None:
    bench = AheadBench()
    bench.on(bench.ahead())
    bench.end_step(7, 8)
    bench.on(StepBegun(1))

    rejected = reply_in(bench.on(StepFailed("no", 5)), Rejected)

    assert (rejected.round, rejected.try_, rejected.rejected) == (1, 0, Reason.BUSY)
