"""The verifier's end of a session: hosted rounds with a draft of the verifier's own."""

import numpy as np
import pytest

from specedge.errors import ProtocolViolation
from specedge.protocol.messages import Rejected
from specedge.protocol.verifier_effects import (
    DropSlot,
    KeepRows,
    Reply,
    StepBegun,
    StepFailed,
    Stepped,
    WantStep,
)
from specedge.protocol.verifier_states import VerifierState
from specedge.tree.token_tree import TokenTree
from tests.unit.verifier_bench import PROMPT, Bench, find, own_tree, reply_in


def test_a_hosted_round_commits_what_the_verifiers_own_draft_got_right() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))

    effects = bench.step(30, 31, 32, tree=own_tree(19, 30, 31), draft_ms=2.5)

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert (verdict.path, verdict.bonus, verdict.base) == ((30, 31), 32, 13)
    assert (verdict.kept, verdict.own) == (0, 2)
    assert verdict.timing.draft == 2.5
    [keep] = find(effects, KeepRows)
    assert (keep.base, keep.path.tolist()) == (10, [1, 2])
    [step] = find(effects, WantStep)
    assert (step.start, step.chain.tolist()) == (12, [32])
    assert bench.session.grant_left == 5


def test_a_hosted_round_is_cut_where_its_grant_ends() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=2))

    effects = bench.step(30, 31, 32, 33, tree=own_tree(19, 30, 31, 32))

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert (verdict.path, verdict.bonus, verdict.final) == ((30,), 31, None)
    assert bench.session.committed.tolist() == [*PROMPT, 30, 31]
    assert bench.session.rows == 11
    assert bench.session.state is VerifierState.READY


def test_a_grant_extended_during_a_step_counts_from_the_next_round_on() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=2))
    bench.on(StepBegun(1))
    bench.on(bench.work(run=6, try_=1))

    effects = bench.on(Stepped(np.array([30, 31, 32], np.int32), tree=own_tree(19, 30, 31)))

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert verdict.path == (30,)
    assert bench.session.grant_left == 4


def test_a_grant_asked_for_again_during_a_step_outdates_a_draft_that_came_before_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=4))
    bench.on(StepBegun(1))
    bench.on(bench.work(token=(7,), parent=(-1,), try_=1))
    bench.on(bench.work(run=4, try_=2))

    effects = bench.on(StepFailed("no memory"))

    assert reply_in(effects, Rejected).try_ == 2
    assert not find(effects, WantStep)


@pytest.mark.parametrize("ended_by", ["stop", "length"])
def test_a_hosted_draft_is_cut_where_the_sequence_ends(ended_by: str) -> None:
    bench = Bench(stop=(31,)) if ended_by == "stop" else Bench(max_tokens=2)
    bench.ready()
    bench.on(bench.work(run=8))

    effects = bench.step(30, 31, 32, 33, tree=own_tree(19, 30, 31, 32))

    [verdict] = [reply.message for reply in find(effects, Reply)]
    assert (verdict.path, verdict.bonus, verdict.final) == ((30,), 31, ended_by)
    assert find(effects, DropSlot)


def test_a_draft_that_comes_while_a_hosted_draft_is_tried_ends_the_grant_after_it() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=8))
    bench.on(StepBegun(1))
    bench.on(bench.work(try_=1, token=(30,), parent=(-1,)))

    effects = bench.on(Stepped(np.array([30, 31, 32], np.int32), tree=own_tree(19, 30, 31)))

    first = find(effects, Reply)[0].message
    assert first.path == (30, 31)
    assert not bench.session.is_hosted


@pytest.mark.parametrize(
    ("run", "tree"),
    [(0, own_tree(19, 30)), (8, own_tree(18, 30))],
    ids=["of an edge's round", "on another root"],
)
def test_a_tree_of_its_own_where_none_may_be_is_a_wrong_local_call(
    run: int, tree: TokenTree
) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(run=run))
    bench.on(StepBegun(1))

    with pytest.raises(ProtocolViolation):
        bench.on(Stepped(np.array([30, 31], np.int32), tree=tree))

    assert bench.session.state is VerifierState.RUNNING
    assert bench.session.committed.tolist() == PROMPT
