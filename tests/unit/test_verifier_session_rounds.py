"""The verifier's end of a session: a draft, its step, its verdict, and drafts that are refused."""

from dataclasses import replace

import numpy as np
import pytest

from specedge.protocol.effects import TimerDue
from specedge.protocol.messages import Cold, Rejected, TokenLogprobs, Verdict
from specedge.protocol.opening import Reason
from specedge.protocol.verifier_effects import (
    KeepRows,
    Reply,
    StepBegun,
    Stepped,
    WantStep,
    Withdraw,
)
from specedge.protocol.verifier_states import VerifierState
from tests.unit.verifier_bench import PROMPT, Bench, find, reply_in, step_in


def test_a_draft_becomes_a_step_and_the_step_a_verdict() -> None:
    bench = Bench()
    bench.ready()

    step = step_in(bench.on(bench.work(token=(7, 8, 9), parent=(-1, 0, 0))))
    assert (step.start, step.chain.tolist()) == (9, [19])
    assert step.tree is not None
    assert step.tree.parent.tolist() == [-1, 0, 1, 1]
    effects = bench.step(7, 9, 0, 4, queue_ms=1.234, step_ms=20.0, step_rows=33)

    verdict = reply_in(effects, Verdict)
    assert (verdict.path, verdict.bonus, verdict.kept) == ((7, 9), 4, 3)
    log = bench.log(7, 9, 4)
    assert (verdict.base, verdict.hash) == (13, log.hash_at(13))
    assert (verdict.timing.held, verdict.timing.queue, verdict.timing.rows) == (1.5, 1.23, 33)
    (kept,) = find(effects, KeepRows)
    assert (kept.base, kept.path.tolist()) == (10, [1, 3])
    assert bench.session.rows == 12
    assert bench.session.last_round == 0


def test_when_its_next_draft_is_wanted_is_in_the_verdict_as_the_batch_said_it() -> None:
    bench = Bench()
    bench.ready()
    work = bench.work()

    bench.on(replace(work, item=work.item.model_copy(update={"next_ms": 12.5})))

    assert reply_in(bench.step(5), Verdict).timing.next == 12.5


def test_an_empty_tree_yields_one_token_and_moves_no_row() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())

    effects = bench.step(5)

    assert reply_in(effects, Verdict).path == ()
    assert not find(effects, KeepRows)


def test_log_probabilities_follow_the_path() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(token=(7, 8), parent=(-1, 0)))

    logprobs = tuple(TokenLogprobs(lp=-float(node)) for node in range(3))
    verdict = reply_in(bench.step(7, 3, 0, logprobs=logprobs), Verdict)

    assert verdict.lp is not None
    assert [entry.lp for entry in verdict.lp] == [0.0, -1.0]


def test_the_same_round_again_is_answered_from_the_cache_and_not_run() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(token=(7,), parent=(-1,)))
    first = reply_in(bench.step(7, 3), Verdict)

    effects = bench.on(bench.work(token=(7,), parent=(-1,), try_=1))

    assert reply_in(effects, Verdict) == first.model_copy(update={"try_": 1})
    assert not find(effects, WantStep)
    assert bench.session.state is VerifierState.READY


def test_an_older_round_is_ignored() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(round_=4))
    bench.step(5)
    bench.on(bench.work(5, round_=5))
    bench.step(6)

    assert bench.on(bench.work(round_=4, try_=1)) == []
    assert bench.session.counters["stale_work"] == 1


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_duplicate_while_running_is_answered_by_nothing(has_begun: bool) -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work())
    if has_begun:
        bench.on(StepBegun(1))

    assert not find(bench.on(bench.work(try_=0)), Reply)
    assert not find(bench.on(bench.work(try_=1)), Reply | WantStep)

    if not has_begun:
        bench.on(StepBegun(1))
    verdict = reply_in(bench.on(Stepped(np.asarray([5], dtype=np.int32))), Verdict)
    assert verdict.try_ == 1, "the answer names the newest try"


@pytest.mark.parametrize("changed", [{"hash": "0" * 16}, {"base": 12}])
def test_another_base_or_hash_is_cold(changed: dict[str, object]) -> None:
    bench = Bench()
    bench.ready()

    assert reply_in(bench.on(bench.work(**changed)), Cold)
    assert bench.session.committed.tolist() == PROMPT


def test_a_base_inside_the_prompt_is_rejected() -> None:
    bench = Bench()
    bench.ready()
    log = bench.log()

    rejected = reply_in(bench.on(bench.work(base=5, hash=log.hash_at(5))), Rejected)

    assert rejected.field == "base"


def test_nothing_may_be_appended_past_the_end() -> None:
    bench = Bench(max_tokens=2)
    bench.ready()

    rejected = reply_in(bench.on(bench.work(append=(1, 2))), Rejected)

    assert (rejected.rejected, rejected.field) == (Reason.INVALID, "base")


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"token": (1,) * 5, "parent": (-1,) * 5}, Reason.OVER_LIMIT, "token"),
        ({"append": (1,) * 4}, Reason.OVER_LIMIT, "append"),
        ({"run": 9}, Reason.OVER_LIMIT, "run"),
        ({"token": (1, 50), "parent": (-1, 0)}, Reason.INVALID, "token[1]"),
        ({"append": (50,)}, Reason.INVALID, "append[0]"),
    ],
)
def test_a_faulty_draft_is_rejected_by_field_and_touches_nothing(
    changed: dict[str, object], reason: Reason, field: str
) -> None:
    bench = Bench()
    bench.ready()

    rejected = reply_in(bench.on(bench.work(**changed)), Rejected)

    assert (rejected.rejected, rejected.field) == (reason, field)
    assert bench.session.state is VerifierState.READY
    assert step_in(bench.on(bench.work())), "the round itself is still welcome"


def test_work_that_came_too_late_is_rejected_as_expired() -> None:
    bench = Bench()
    bench.ready()
    late = bench.work()

    rejected = reply_in(bench.on(late, after_s=0.7), Rejected)

    assert rejected.rejected is Reason.EXPIRED


def test_work_that_waits_past_its_time_is_withdrawn() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(budget_ms=100))

    effects = bench.on(TimerDue(), 0.1)

    assert find(effects, Withdraw)
    assert reply_in(effects, Rejected).rejected is Reason.EXPIRED
    assert bench.session.state is VerifierState.READY


def test_appended_tokens_are_committed_before_the_round() -> None:
    bench = Bench()
    bench.ready()

    step = step_in(bench.on(bench.work(append=(1, 2), token=(7,), parent=(-1,))))
    assert (step.start, step.chain.tolist()) == (9, [19, 1, 2])
    verdict = reply_in(bench.step(7, 8, num_chain=3), Verdict)

    assert (verdict.base, verdict.hash) == (14, bench.log(1, 2, 7, 8).hash_at(14))
    assert reply_in(
        bench.on(bench.work(append=(1, 2), token=(7,), parent=(-1,), try_=1)), Verdict
    ), "the cache knows the round by where it started"


def test_a_lower_base_with_an_agreeing_hash_rewinds_the_log() -> None:
    bench = Bench()
    bench.ready(1, 2, 3)

    step = step_in(bench.on(bench.work(1, round_=8)))

    assert (step.start, step.chain.tolist()) == (10, [1])
    assert bench.session.committed.tolist() == [*PROMPT, 1]
    assert bench.session.counters["truncated"] == 1


@pytest.mark.parametrize(
    ("append", "start", "chain"),
    [((9, 8), 10, [9, 8]), ((1, 9), 11, [9]), ((1, 2), 11, [2]), ((1, 2, 3), 12, [3])],
)
def test_rows_of_what_an_append_contradicts_are_computed_again(
    append: tuple[int, ...], start: int, chain: list[int]
) -> None:
    bench = Bench()
    bench.ready(1, 2, 3)
    assert bench.session.rows == 12, "all but the root's"

    step = step_in(bench.on(bench.work(round_=8, append=append)))

    assert (step.start, step.chain.tolist()) == (start, chain)
    assert bench.session.committed.tolist() == [*PROMPT, *append]
