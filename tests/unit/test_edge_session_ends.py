"""The edge's end of a session: what ends it, from the cloud's side or the client's."""

import pytest

from specedge.errors import Busy, FingerprintMismatch, InvalidRequest, RetryableError
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import CancelAsked, CloseAsked, EdgeEvent, Ended, Started, TimerDue
from specedge.protocol.messages import Progress, Rejected
from specedge.protocol.opening import Reason
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from tests.unit.edge_bench import Bench, draft_in, ended, find, sent

# ---------------------------------------------------------------- the cloud ends it


@pytest.mark.parametrize("final", ["stop", "length"])
def test_a_final_verdict_ends_the_session_and_says_so_to_the_cloud(final: str) -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(7, 2, final=final))

    assert ended(effects) == Ended(final)
    assert sent(effects, Up.CLOSE)
    assert bench.session.state is EdgeState.ENDED


def test_a_rejection_for_a_fault_ends_with_the_field_in_the_draft_own_words() -> None:
    bench = Bench()
    bench.awaiting()
    rejected = Rejected(round=0, rejected=Reason.INVALID, message="no such id", field="token[1]")

    error = ended(bench.answer(rejected)).error

    assert isinstance(error, InvalidRequest)
    assert (error.field, str(error)) == ("token[1]", "no such id")


def test_a_context_rejected_while_drafting_ends_the_session() -> None:
    bench = Bench()
    bench.opened()
    rejected = Rejected(round=0, rejected=Reason.FINGERPRINT, ours="ee", theirs="ab")

    error = ended(bench.answer(rejected)).error

    assert isinstance(error, FingerprintMismatch)
    assert (error.ours, error.theirs) == ("ab", "ee")


# ---------------------------------------------------------------- nothing moves for too long


def test_no_verifier_for_too_long_ends_with_a_retryable_error() -> None:
    bench = Bench(EdgeSessionConfig(no_verifier_s=1.0))
    bench.awaiting()
    try_ = 0

    while True:
        rejected = Rejected(round=0, try_=try_, rejected=Reason.NO_VERIFIER, retry_ms=300)
        effects = bench.answer(rejected)
        if find(effects, Ended):
            break
        try_ = draft_in(bench.on(TimerDue(), 0.3)).try_

    assert 0.5 < bench.now_s <= 1.0
    error = ended(effects).error
    assert type(error) is RetryableError
    assert error.retry_ms == 300


def test_a_sign_of_life_between_makes_no_verifier_count_from_the_start() -> None:
    bench = Bench(EdgeSessionConfig(no_verifier_s=1.0))
    bench.awaiting()
    for try_ in range(4):
        none = Rejected(round=0, try_=2 * try_, rejected=Reason.NO_VERIFIER, retry_ms=300)
        busy = Rejected(round=0, try_=2 * try_ + 1, rejected=Reason.BUSY, retry_ms=300)
        bench.answer(none)
        bench.on(TimerDue(), 0.3)
        bench.answer(busy)
        bench.on(TimerDue(), 0.3)

    assert bench.session.state is EdgeState.AWAITING


def test_progress_that_does_not_move_cannot_hold_a_session_for_ever() -> None:
    bench = Bench(EdgeSessionConfig(give_up_s=2.0))
    bench.awaiting()

    for _ in range(9):
        bench.answer(Progress(round=0, progress=(1, 3)), 0.25)
    effects = bench.on(TimerDue())

    assert isinstance(ended(effects).error, Busy), "somebody has it, and no time"


def test_silence_is_not_taken_for_want_of_time() -> None:
    bench = Bench(EdgeSessionConfig(give_up_s=2.0))
    bench.awaiting()
    bench.answer(Progress(round=0, progress=(1, 3)), 0.25)

    effects = bench.on(TimerDue(), 2.5)

    error = ended(effects).error
    assert isinstance(error, RetryableError) and not isinstance(error, Busy)


# ---------------------------------------------------------------- the client leaves


@pytest.mark.parametrize(("event", "kind", "reason"), [
    (CancelAsked(), Up.CANCEL, "cancelled"), (CloseAsked(), Up.CLOSE, "closed")
])  # fmt: skip
@pytest.mark.parametrize("reach", ["started", "opened", "awaiting", "hosted"])
def test_the_client_may_leave_at_any_moment(
    event: EdgeEvent, kind: Up, reason: str, reach: str
) -> None:
    bench = Bench()
    bench.on(Started()) if reach == "started" else getattr(bench, reach)()

    effects = bench.on(event)

    assert sent(effects, kind)
    assert ended(effects) == Ended(reason)
    assert bench.answer(bench.verdict(7)) == []
    assert bench.on(TimerDue(), 99.0) == []


def test_leaving_before_anything_was_said_says_nothing() -> None:
    assert Bench().on(CancelAsked()) == [Ended("cancelled")]
