"""The verifier's end of a session: grants, used up, renewed, repeated and taken back."""

import numpy as np
import pytest

from specedge.protocol.messages import Verdict
from specedge.protocol.verifier_effects import (
    DropSlot,
    Reply,
    StepBegun,
    Stepped,
    WantSlot,
    WantStep,
    Withdraw,
)
from specedge.protocol.verifier_states import VerifierState
from tests.unit.verifier_bench import PROMPT, Bench, find, own_tree, reply_in, step_in


def test_a_grant_publishes_one_round_a_step_until_it_is_used_up() -> None:
    bench = Bench()
    bench.ready()

    step = step_in(bench.on(bench.work(round_=4, run=3)))
    assert step.is_hosted
    assert step.tree is not None
    assert len(step.tree) == 1
    rounds = []
    for token in (1, 2, 3):
        effects = bench.step(token)
        rounds.append(reply_in(effects, Verdict).round)

    assert rounds == [4, 5, 6]
    assert not find(effects, WantStep)
    assert bench.session.committed.tolist() == [*PROMPT, 1, 2, 3]
    assert bench.session.state is VerifierState.READY


def test_a_grant_ends_with_the_sequence() -> None:
    bench = Bench(max_tokens=2)
    bench.ready()
    bench.on(bench.work(run=8))
    bench.step(1)

    effects = bench.step(2)

    assert reply_in(effects, Verdict).final == "length"
    assert find(effects, DropSlot)


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_renewal_extends_absolutely_and_restarts_nothing(has_begun: bool) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=4))
    bench.step(1)
    bench.step(2)
    bench.step(3)
    if has_begun:
        bench.on(StepBegun(1))

    effects = bench.on(bench.work(1, 2, round_=2, run=4))  # the edge has seen two of three

    assert not find(effects, WantStep | Reply)
    rounds = []
    for token in (4, 5, 6):
        if not has_begun:
            bench.on(StepBegun(1))
        has_begun = False
        effects = bench.on(Stepped(np.asarray([token], dtype=np.int32)))
        rounds.append(reply_in(effects, Verdict).round)
    assert rounds == [3, 4, 5]
    assert not find(effects, WantStep), "six tokens from where the grant began: base 2 and 4 more"
    assert bench.session.counters["truncated"] == 0


def test_a_renewal_after_the_end_goes_on_where_the_grant_stopped() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=2))
    bench.step(1)
    bench.step(2)

    step = step_in(bench.on(bench.work(1, round_=1, run=4)))

    assert step.chain.tolist() == [2]
    assert reply_in(bench.step(3), Verdict).round == 2


def test_a_renewal_that_grants_nothing_new_changes_nothing() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=3))
    for token in (1, 2, 3):
        bench.step(token)

    assert bench.on(bench.work(1, round_=1, run=2)) == []
    assert bench.session.committed.tolist() == [*PROMPT, 1, 2, 3]


def test_a_repeated_grant_goes_back_to_the_edge_base() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=4))
    bench.step(1)
    bench.step(2)

    step = step_in(bench.on(bench.work(1, round_=1, try_=1, run=4)))

    assert step.chain.tolist() == [1]
    verdict = reply_in(bench.step(2), Verdict)
    assert (verdict.round, verdict.try_) == (1, 1)


def a_grant_that_ran_ahead() -> Bench:
    """Three rounds said, a fourth in a step; the edge may have seen none of them."""
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))
    for token in (1, 2, 3):
        bench.step(token)
    bench.on(StepBegun(1))
    return bench


def test_a_draft_for_a_round_the_grant_has_said_ends_it_and_what_was_said_stands() -> None:
    bench = a_grant_that_ran_ahead()

    bench.on(bench.work(1, round_=1, token=(2,), parent=(-1,)))
    effects = bench.on(Stepped(np.asarray([4], dtype=np.int32)))

    assert reply_in(effects, Verdict).round == 3
    assert bench.session.state is VerifierState.READY
    assert bench.session.counters["outrun_draft"] == 1
    step = step_in(bench.on(bench.work(1, 2, 3, 4, round_=4, token=(5,), parent=(-1,))))
    assert step.chain.tolist() == [4]


def test_a_draft_said_again_takes_back_what_the_edge_has_not_seen() -> None:
    bench = a_grant_that_ran_ahead()

    bench.on(bench.work(1, round_=1, try_=1, token=(2,), parent=(-1,)))
    effects = bench.on(Stepped(np.asarray([4], dtype=np.int32)))

    step = step_in(effects)
    assert step.chain.tolist() == [1]
    assert not step.is_hosted
    assert not bench.session.is_hosted
    verdict = reply_in(bench.step(2, 3), Verdict)
    assert (verdict.round, verdict.path, verdict.bonus) == (1, (2,), 3)


def test_a_draft_for_the_round_in_a_step_is_answered_by_it_and_not_run() -> None:
    bench = a_grant_that_ran_ahead()

    bench.on(bench.work(1, 2, 3, round_=3, token=(9,), parent=(-1,)))
    effects = bench.on(Stepped(np.array([4, 5], np.int32), tree=own_tree(3, 4)))

    verdict = reply_in(effects, Verdict)
    assert (verdict.round, verdict.path, verdict.bonus) == (3, (4,), 5)
    assert not find(effects, WantStep)
    assert bench.session.state is VerifierState.READY


def test_a_draft_for_a_round_the_grant_has_answered_gets_that_answer() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))
    bench.step(1)

    effects = bench.on(bench.work(round_=0, try_=1, token=(1,), parent=(-1,)))

    assert reply_in(effects, Verdict).bonus == 1
    assert find(effects, Withdraw)
    assert bench.session.state is VerifierState.READY, "and the grant is over"


@pytest.mark.parametrize("is_during_the_step", [False, True])
@pytest.mark.parametrize(("max_tokens", "last"), [(20, 7), (3, 30)])
def test_more_of_a_grant_that_crosses_the_last_verdict_starts_nothing(
    max_tokens: int, last: int, is_during_the_step: bool
) -> None:
    bench = Bench(max_tokens=max_tokens, stop=(7,))
    bench.ready()
    bench.on(bench.work(run=8))
    bench.step(1)
    bench.step(2)
    more = bench.work(1, round_=1, run=8)

    if is_during_the_step:
        bench.on(StepBegun(1))
        bench.on(more)
        effects = bench.on(Stepped(np.asarray([last], dtype=np.int32)))
    else:
        effects = bench.step(last)
        effects += bench.on(more)

    assert reply_in(effects, Verdict).final is not None
    assert not find(effects, WantSlot) and not find(effects, WantStep)
    assert bench.session.counters["outrun_grant"] == 1


def test_a_last_verdict_that_was_lost_is_said_when_the_grant_is_asked_for_again() -> None:
    bench = Bench(stop=(7,))
    bench.ready()
    bench.on(bench.work(run=8))
    bench.step(1)
    bench.step(7)

    effects = bench.on(bench.work(1, round_=1, try_=1, run=8))

    assert reply_in(effects, Verdict).final == "stop"
