"""The edge's end of a session, row by row."""

import numpy as np
import pytest

from specedge.errors import (
    AuthenticationFailed,
    Busy,
    ContextTooLong,
    FingerprintMismatch,
    InvalidRequest,
    LinkTimeout,
    ProtocolViolation,
    RetryableError,
)
from specedge.protocol import codec
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.edge_states import EDGE_TRANSITIONS, EdgeState
from specedge.protocol.effects import (
    Answered,
    AskDraft,
    CancelAsked,
    CloseAsked,
    Committed,
    Drafted,
    DraftedAhead,
    EdgeEffect,
    EdgeEvent,
    Ended,
    LinkRestored,
    OpenAnswered,
    OpenFailed,
    RequestOpen,
    SendUp,
    SetTimer,
    Started,
    SwitchAsked,
    TimerDue,
)
from specedge.protocol.messages import (
    MAX_CHUNK_TOKENS,
    Ahead,
    Cold,
    DownMessage,
    Draft,
    Identity,
    Limits,
    Opened,
    OpenRequest,
    Progress,
    Reason,
    Refused,
    Rejected,
    SessionParams,
    Verdict,
)
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from specedge.protocol.token_log import TokenLog
from specedge.tree.token_tree import TokenTree

LIMITS = Limits(nodes=4, append=16, context=100, grant=8)
IDENTITY = Identity(model="m", weights="ab", tokenizer="cd", vocab_size=50, max_context=100)
OPENED = Opened(at="v1", group="main", limits=LIMITS, identity=IDENTITY)
TREE = ((7, 8, 9), (0, 1, 1))  # drafted tokens and their parents, counted with the root


def params_of(**changed: object) -> SessionParams:
    fields = {
        "model": "m", "weights": ANY_WEIGHTS, "tokenizer": "cd", "prompt": 3, "max_tokens": 20
    }  # fmt: skip
    return SessionParams(**{**fields, **changed})


class Bench:
    """An edge session under test, with time and what it sent last at hand."""

    def __init__(self, config: EdgeSessionConfig | None = None, **params: object) -> None:
        told = params_of(**params)
        self.session = EdgeSession(told, list(range(told.prompt)), config)
        self.now_s = 0.0

    def on(self, event: EdgeEvent, after_s: float = 0.0) -> list[EdgeEffect]:
        self.now_s += after_s
        return self.session.on(event, self.now_s)

    def opened(self, opened: Opened = OPENED) -> list[EdgeEffect]:
        self.on(Started())
        return self.on(OpenAnswered(opened))

    def awaiting(self) -> list[EdgeEffect]:
        self.opened()
        return self.on(self.draft())

    def hosted(self, run: int = 4) -> list[EdgeEffect]:
        self.opened()
        return self.on(self.grant(run))

    def draft(self, *, base: int | None = None) -> Drafted:
        root = int(self.session.committed[-1])
        token, parent = TREE
        return Drafted(TokenTree.from_parents([root, *token], [-1, *parent]), base=base)

    def grant(self, run: int) -> Drafted:
        return Drafted(TokenTree.root_only(0), run=run)

    def verdict(self, *tokens: int, round_: int | None = None, **changed: object) -> Verdict:
        log = TokenLog(self.session.params, self.session.committed)
        log.extend(tokens)
        fields = {
            "round": self.session.round if round_ is None else round_,
            "at": "v2",
            "path": tokens[:-1],
            "bonus": tokens[-1],
            "kept": 3,
            "base": len(log),
            "hash": log.hash_at(len(log)),
        }
        return Verdict(**{**fields, **changed})

    def answer(self, message: DownMessage, after_s: float = 0.0) -> list[EdgeEffect]:
        return self.on(Answered(message), after_s)


def find(effects: list[EdgeEffect], kind: type) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: list[EdgeEffect], kind: Up) -> list[bytes]:
    return [effect.payload for effect in find(effects, SendUp) if effect.kind is kind]


def draft_in(effects: list[EdgeEffect]) -> Draft:
    (payload,) = sent(effects, Up.DRAFT)
    return codec.decode(Draft, payload)


def timer_in(effects: list[EdgeEffect]) -> float | None:
    return find(effects, SetTimer)[-1].at_s


def ended(effects: list[EdgeEffect]) -> Ended:
    assert isinstance(effects[-1], Ended)
    return effects[-1]


# ---------------------------------------------------------------- opening


def test_it_asks_for_a_place_for_prompt_and_answer_together() -> None:
    effects = Bench().on(Started())

    request = codec.decode(OpenRequest, find(effects, RequestOpen)[0].payload)
    assert (request.model, request.tokenizer, request.context) == ("m", "cd", 23)


def test_a_place_brings_the_context_at_once_and_asks_for_a_draft() -> None:
    bench = Bench()

    effects = bench.opened()

    header, ids = codec.decode_context(sent(effects, Up.CONTEXT)[0])
    assert (header.total, ids.tolist()) == (3, [0, 1, 2])
    assert header.params.weights == "ab", "the handshake fills in the verifier's weights"
    assert find(effects, AskDraft) == [AskDraft(round=0, max_nodes=4, base=3)]
    assert (bench.session.group, bench.session.verifier) == ("main", "v1")


def test_a_long_context_goes_in_chunks_that_all_name_the_whole() -> None:
    limits = LIMITS.model_copy(update={"context": 100_000})
    bench = Bench(prompt=MAX_CHUNK_TOKENS * 2 + 5)

    effects = bench.opened(OPENED.model_copy(update={"limits": limits}))

    read = [codec.decode_context(payload) for payload in sent(effects, Up.CONTEXT)]
    assert [header.off for header, _ in read] == [0, MAX_CHUNK_TOKENS, 2 * MAX_CHUNK_TOKENS]
    assert {(header.total, header.hash) for header, _ in read} == {
        (MAX_CHUNK_TOKENS * 2 + 5, read[0][0].hash)
    }
    assert np.concatenate([ids for _, ids in read]).tolist() == bench.session.committed.tolist()


@pytest.mark.parametrize("field", ["tokenizer", "weights"])
def test_another_vocabulary_or_model_ends_with_both_fingerprints_before_any_draft(
    field: str,
) -> None:
    bench = Bench(weights="ab")
    identity = IDENTITY.model_copy(update={field: "ee"})

    effects = bench.opened(OPENED.model_copy(update={"identity": identity}))

    error = ended(effects).error
    assert isinstance(error, FingerprintMismatch)
    assert (error.field, error.theirs) == (field, "ee")
    assert error.ours in str(error)
    assert error.theirs in str(error)
    assert sent(effects, Up.CLOSE)
    assert not find(effects, AskDraft)


def test_more_tokens_than_the_context_holds_end_with_the_limit_in_the_message() -> None:
    error = ended(Bench(max_tokens=98).opened()).error

    assert isinstance(error, ContextTooLong)
    assert error.field == "max_tokens"
    assert "maximum context length is 100 tokens" in str(error)


@pytest.mark.parametrize(
    ("refused", "kind", "field"),
    [
        ({"refused": Reason.UNKNOWN_MODEL}, InvalidRequest, "model"),
        ({"refused": Reason.VERSION, "field": "versions"}, InvalidRequest, "versions"),
        ({"refused": Reason.TOO_LONG, "field": "context"}, ContextTooLong, "context"),
        ({"refused": Reason.FINGERPRINT, "ours": "ee", "theirs": "cd"}, FingerprintMismatch,
         "tokenizer"),
    ],
)  # fmt: skip
def test_a_refusal_that_time_does_not_mend_ends_with_the_field(
    refused: dict[str, object], kind: type, field: str
) -> None:
    bench = Bench()
    bench.on(Started())

    error = ended(bench.on(OpenAnswered(Refused(message="no", **refused)))).error

    assert type(error) is kind
    assert isinstance(error, InvalidRequest)
    assert error.field == field
    if isinstance(error, FingerprintMismatch):
        assert (error.ours, error.theirs) == ("cd", "ee")


def test_a_full_pool_is_reported_at_once_with_its_own_time() -> None:
    bench = Bench()
    bench.on(Started())
    refused = Refused(refused=Reason.BUSY, message="full", retry_ms=700)

    error = ended(bench.on(OpenAnswered(refused))).error

    assert isinstance(error, Busy)
    assert error.retry_ms == 700


def test_without_a_verifier_it_asks_again_until_the_answer_would_come_too_late() -> None:
    bench = Bench(EdgeSessionConfig(open_s=1.0))
    bench.on(Started())
    refused = Refused(refused=Reason.NO_VERIFIER, message="none", retry_ms=400)
    asked = 1

    while not find(effects := bench.on(OpenAnswered(refused)), Ended):
        bench.now_s = timer_in(effects) or 0.0
        asked += len(find(bench.on(TimerDue()), RequestOpen))

    assert asked == 3
    assert bench.now_s < 1.0
    error = ended(effects).error
    assert isinstance(error, RetryableError)
    assert error.retry_ms == 400


def test_an_open_request_never_waits_past_the_time_for_opening() -> None:
    bench = Bench(EdgeSessionConfig(open_s=1.0, open_timeout_s=0.75))
    first = find(bench.on(Started()), RequestOpen)[0]
    bench.on(OpenFailed(LinkTimeout("silence")), 0.75)

    second = find(bench.on(TimerDue(), 0.1), RequestOpen)[0]
    effects = bench.on(OpenFailed(LinkTimeout("silence")), second.timeout_s)

    assert first.timeout_s == 0.75
    assert second.timeout_s == pytest.approx(0.15)
    assert isinstance(ended(effects).error, LinkTimeout)


def test_an_error_that_asking_again_cannot_mend_ends_at_once() -> None:
    bench = Bench()
    bench.on(Started())

    error = ended(bench.on(OpenFailed(AuthenticationFailed("revoked")))).error

    assert isinstance(error, AuthenticationFailed)


def test_a_restored_link_asks_at_once_but_never_twice() -> None:
    bench = Bench()
    bench.on(Started())

    assert not find(bench.on(LinkRestored()), RequestOpen), "one request is out already"
    bench.on(OpenFailed(LinkTimeout("cut")))
    assert find(bench.on(LinkRestored()), RequestOpen)


def test_a_second_answer_to_one_request_is_ignored() -> None:
    bench = Bench()
    bench.opened()

    assert bench.on(OpenAnswered(OPENED)) == []
    assert bench.session.counters["stale_open"] == 1


# ---------------------------------------------------------------- a round


def test_a_draft_says_where_it_stands_and_twice_its_timer() -> None:
    bench = Bench()

    effects = bench.awaiting()

    draft = draft_in(effects)
    assert (draft.round, draft.try_, draft.base, draft.at) == (0, 0, 3, "v1")
    assert (draft.token, draft.parent) == ((7, 8, 9), (-1, 0, 0))
    assert draft.hash == TokenLog(bench.session.params, [0, 1, 2]).hash_at(3)
    assert timer_in(effects) == pytest.approx(0.3)
    assert draft.budget_ms == 600


def test_a_tree_is_cut_to_the_limit_of_nodes_and_stays_a_tree() -> None:
    bench = Bench()
    bench.opened(OPENED.model_copy(update={"limits": LIMITS.model_copy(update={"nodes": 2})}))

    draft = draft_in(bench.on(bench.draft()))

    assert (draft.token, draft.parent) == ((7, 8), (-1, 0))


def test_an_empty_tree_is_a_legal_draft() -> None:
    bench = Bench()
    bench.opened()

    draft = draft_in(bench.on(Drafted(TokenTree.root_only(2))))

    assert (draft.token, draft.run) == ((), 0)


def test_a_verdict_commits_path_and_bonus_and_asks_for_the_next_draft() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(7, 9, 4), 0.1)

    committed = find(effects, Committed)[0]
    assert committed.tokens == (7, 9, 4)
    assert committed.was_tree
    assert committed.round_trip_s == pytest.approx(0.1)
    assert find(effects, AskDraft) == [AskDraft(round=1, max_nodes=4, base=6)]
    assert bench.session.committed.tolist() == [0, 1, 2, 7, 9, 4]
    assert (bench.session.state, bench.session.verifier) == (EdgeState.DRAFTING, "v2")
    assert timer_in(effects) is None


@pytest.mark.parametrize("final", ["stop", "length"])
def test_a_final_verdict_ends_the_session_and_says_so_to_the_cloud(final: str) -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(7, 2, final=final))

    assert ended(effects) == Ended(final)
    assert sent(effects, Up.CLOSE)
    assert bench.session.state is EdgeState.ENDED


def test_late_verdict_for_an_old_round_is_ignored() -> None:
    bench = Bench()
    bench.awaiting()
    verdict = bench.verdict(7, 4)
    bench.answer(verdict)

    assert bench.answer(verdict) == []
    assert bench.session.base == 5
    assert bench.session.counters["stale_verdict"] == 1


def test_a_verdict_for_a_round_not_yet_sent_is_ignored() -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.answer(bench.verdict(7, round_=1)) == []
    assert bench.session.counters["newer_verdict"] == 1


def test_the_first_verdict_counts_whichever_try_it_answers_and_is_timed_from_that_send() -> None:
    bench = Bench()
    bench.awaiting()
    bench.on(TimerDue(), 0.3)

    effects = bench.answer(bench.verdict(7), 0.1)

    assert find(effects, Committed)[0].round_trip_s == pytest.approx(0.4)


@pytest.mark.parametrize("changed", [{"hash": "0" * 16}, {"base": 9}, {"bonus": 50}])
def test_a_verdict_on_another_prefix_brings_the_context_and_the_round_again(
    changed: dict[str, object],
) -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(bench.verdict(7, **changed))

    assert sent(effects, Up.CONTEXT)
    assert draft_in(effects).try_ == 1
    assert bench.session.base == 3
    assert bench.session.counters["mismatched_verdict"] == 1
    assert bench.answer(bench.verdict(7, **changed)) == [], "only an answer to the newest try"


def test_silence_says_the_round_again_with_a_doubled_timer() -> None:
    bench = Bench()
    effects = bench.awaiting()
    first = draft_in(effects)

    waits = []
    for expected_try in (1, 2, 3):
        at_s = timer_in(effects)
        assert at_s is not None
        effects = bench.on(TimerDue(), at_s - bench.now_s)
        again = draft_in(effects)
        assert again.model_copy(update={"try_": 0, "budget_ms": 600}) == first
        assert again.try_ == expected_try
        waits.append((timer_in(effects) or 0.0) - bench.now_s)

    assert waits == pytest.approx([0.6, 1.2, 2.4])
    assert bench.session.counters["resends"] == 3


def test_the_timer_follows_the_usual_round_trip() -> None:
    bench = Bench()
    bench.awaiting()
    bench.answer(bench.verdict(7), 0.2)

    effects = bench.on(bench.draft())

    assert (timer_in(effects) or 0.0) - bench.now_s == pytest.approx(0.6)
    assert bench.session.round_trip_s == pytest.approx(0.2)


def test_an_early_timer_is_asked_for_again_and_a_stale_one_does_nothing() -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.on(TimerDue(), 0.1) == [SetTimer(0.3)]
    bench.answer(bench.verdict(7))
    assert bench.on(TimerDue(), 9.0) == []


def test_progress_starts_the_timer_anew() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(Progress(round=0, progress=(1, 3)), 0.25)

    assert timer_in(effects) == pytest.approx(0.55)
    assert bench.answer(Progress(round=1, progress=(1, 3))) == []


def test_cold_brings_the_context_and_the_round_as_a_new_try() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(Cold(round=0, try_=0))

    assert sent(effects, Up.CONTEXT)
    assert draft_in(effects).try_ == 1
    assert bench.session.counters["resyncs"] == 1


@pytest.mark.parametrize("cold", [Cold(round=0, try_=1), Cold(round=1, try_=0)])
def test_cold_for_another_round_or_try_is_ignored(cold: Cold) -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.answer(cold) == []


def test_a_busy_verifier_is_asked_again_after_its_own_time_without_doubling() -> None:
    bench = Bench()
    bench.awaiting()

    effects = bench.answer(Rejected(round=0, rejected=Reason.BUSY, retry_ms=70))
    assert timer_in(effects) == pytest.approx(0.07)
    effects = bench.on(TimerDue(), 0.07)

    assert draft_in(effects).budget_ms == 600


def test_a_busy_verifier_in_the_middle_of_a_grant_is_asked_again_after_its_own_time() -> None:
    bench = Bench()
    bench.hosted(run=4)
    bench.answer(bench.verdict(7, kept=0))

    effects = bench.answer(Rejected(round=1, rejected=Reason.BUSY, retry_ms=70))
    assert timer_in(effects) == pytest.approx(0.07)
    again = draft_in(bench.on(TimerDue(), 0.07))

    assert (again.round, again.try_, again.run) == (1, 1, 4)


def test_an_expired_round_is_said_again_at_once_with_more_time() -> None:
    bench = Bench()
    bench.awaiting()

    draft = draft_in(bench.answer(Rejected(round=0, rejected=Reason.EXPIRED)))

    assert (draft.try_, draft.budget_ms) == (1, 1200)


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


def test_rejections_of_another_round_or_try_are_ignored() -> None:
    bench = Bench()
    bench.awaiting()

    assert bench.answer(Rejected(round=1, rejected=Reason.INVALID)) == []
    assert bench.answer(Rejected(round=0, try_=1, rejected=Reason.BUSY)) == []
    assert bench.session.counters["stale_rejected"] == 2


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

    assert isinstance(ended(effects).error, RetryableError)


def test_a_restored_link_says_the_round_again_at_once() -> None:
    bench = Bench()
    bench.awaiting()
    bench.on(TimerDue(), 0.3)

    effects = bench.on(LinkRestored(), 0.1)

    assert (draft_in(effects).try_, draft_in(effects).budget_ms) == (2, 600)


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


# ---------------------------------------------------------------- grants


def test_a_grant_is_a_draft_without_nodes_cut_to_the_limit() -> None:
    draft = draft_in(Bench().hosted(run=99))

    assert (draft.run, draft.token, draft.try_) == (8, (), 0)


def test_verdicts_of_a_grant_are_applied_in_order_and_half_of_it_asks_for_more() -> None:
    bench = Bench()
    bench.hosted(run=4)

    first = bench.answer(bench.verdict(11, kept=0))
    second = bench.answer(bench.verdict(12, kept=0))

    assert not find(first, AskDraft)
    assert find(second, AskDraft) == [AskDraft(round=2, max_nodes=4, base=5)]
    assert not find(second, Committed)[0].was_tree
    assert find(second, Committed)[0].round_trip_s is None
    renewal = draft_in(bench.on(bench.grant(4)))
    assert (renewal.round, renewal.try_, renewal.base, renewal.run) == (2, 0, 5, 4)


def test_a_grant_used_up_waits_for_the_draft_asked_for() -> None:
    bench = Bench()
    bench.hosted(run=2)
    bench.answer(bench.verdict(11, kept=0))

    effects = bench.answer(bench.verdict(12, kept=0))

    assert bench.session.state is EdgeState.DRAFTING
    assert timer_in(effects) is None
    assert draft_in(bench.on(bench.draft(base=5))).base == 5


def test_a_gap_is_asked_for_once_from_the_edge_own_base() -> None:
    bench = Bench()
    bench.hosted()

    effects = bench.answer(bench.verdict(12, round_=1))

    draft = draft_in(effects)
    assert (draft.round, draft.try_, draft.base, draft.run) == (0, 1, 3, 4)
    assert bench.answer(bench.verdict(13, round_=2)) == []


def test_silence_within_a_grant_repeats_it_as_at_least_try_one() -> None:
    bench = Bench()
    bench.hosted()
    bench.answer(bench.verdict(11, kept=0))

    draft = draft_in(bench.on(TimerDue(), 0.3))

    assert (draft.round, draft.try_, draft.base, draft.run) == (1, 1, 4, 4)


def test_a_driver_may_go_back_to_drafting_in_the_middle_of_a_grant() -> None:
    bench = Bench()
    bench.hosted(run=8)

    asked = bench.on(SwitchAsked())
    draft = draft_in(bench.on(bench.draft()))

    assert find(asked, AskDraft)
    assert bench.on(SwitchAsked()) == [], "nothing to ask for while a draft is out"
    assert (draft.round, draft.try_, draft.run) == (0, 1, 0)
    assert bench.session.state is EdgeState.AWAITING


def test_a_tree_drafted_while_a_grant_ran_on_is_carried_to_the_new_root() -> None:
    bench = Bench()
    bench.hosted(run=8)
    bench.on(SwitchAsked())
    drafted = bench.draft()
    bench.answer(bench.verdict(7, kept=0))

    draft = draft_in(bench.on(drafted))

    assert (draft.round, draft.base) == (1, 4)
    assert (draft.token, draft.parent) == ((8, 9), (-1, -1))


def test_a_tree_that_the_grant_left_behind_becomes_an_empty_draft() -> None:
    bench = Bench()
    bench.hosted(run=8)
    bench.on(SwitchAsked())
    drafted = bench.draft()
    bench.answer(bench.verdict(30, kept=0))

    assert draft_in(bench.on(drafted)).token == ()


def test_a_verdict_of_the_old_grant_answers_the_round_but_tried_no_node() -> None:
    bench = Bench()
    bench.hosted(run=8)
    bench.on(SwitchAsked())
    bench.on(bench.draft())

    committed = find(bench.answer(bench.verdict(7, kept=0)), Committed)[0]

    assert not committed.was_tree
    assert bench.session.state is EdgeState.DRAFTING


# ---------------------------------------------------------------- wrong local calls


def test_a_wrong_local_call_raises_and_changes_nothing() -> None:
    for state, row in EDGE_TRANSITIONS.items():
        if Started in row:
            continue
        bench = Bench()
        {"opening": lambda b: b.on(Started()), "drafting": Bench.opened, "awaiting": Bench.awaiting,
         "hosted": Bench.hosted, "ended": lambda b: b.on(CancelAsked())}[state](bench)  # fmt: skip
        assert bench.session.state is state

        with pytest.raises(ProtocolViolation):
            bench.on(Started())

        assert bench.session.state is state


def test_drafts_that_nobody_asked_for_or_on_a_strange_root_are_wrong_calls() -> None:
    bench = Bench()
    bench.hosted()
    with pytest.raises(ProtocolViolation, match="nobody asked"):
        bench.on(bench.grant(1))

    bench = Bench()
    bench.opened()
    strange = Drafted(TokenTree.root_only(49))
    for wrong in (strange, bench.draft(base=2), bench.draft(base=4), bench.grant(-1)):
        with pytest.raises(ProtocolViolation):
            bench.on(wrong)
    assert draft_in(bench.on(bench.draft())), "the right answer is still welcome"


def test_a_grant_where_none_is_offered_is_a_wrong_call() -> None:
    bench = Bench()
    bench.opened(OPENED.model_copy(update={"limits": LIMITS.model_copy(update={"grant": 0})}))

    with pytest.raises(ProtocolViolation, match="hosted"):
        bench.on(bench.grant(1))


def test_the_prompt_must_be_as_long_as_the_params_say() -> None:
    with pytest.raises(ValueError, match="prompt"):
        EdgeSession(params_of(), [1, 2])


def test_answers_before_the_session_is_open_are_counted_and_dropped() -> None:
    bench = Bench()
    bench.on(Started())

    assert bench.answer(Cold(round=0)) == []
    assert bench.session.counters["before_open"] == 1
    assert bench.session.limits is None


# ---------------------------------------------------------------- drafts sent ahead

TAKES_AHEAD = OPENED.model_copy(update={"limits": LIMITS.model_copy(update={"ahead": 5})})


class AheadBench(Bench):
    """A round is out, at a verifier that takes drafts sent ahead."""

    def __init__(self, opened: Opened = TAKES_AHEAD) -> None:
        super().__init__()
        self.opened(opened)
        self.on(self.draft())

    def send_ahead(self, base: int | None = None) -> list[EdgeEffect]:
        """Below 7, which was sent: 30 with 31, 32, 33 and 34 in a row below it."""
        token, parent = [int(self.session.committed[-1]), 7, 30, 31, 32, 33, 34], range(-1, 6)
        tree = TokenTree.from_parents(token, list(parent))
        return self.on(DraftedAhead(tree, nodes=3, base=base or self.session.base))


def test_what_was_drafted_beyond_a_round_is_sent_once_and_no_more_of_it_than_is_taken() -> None:
    bench = AheadBench()

    (payload,) = sent(bench.send_ahead(), Up.AHEAD)

    ahead, log = codec.decode(Ahead, payload), TokenLog(bench.session.params, [0, 1, 2])
    assert (ahead.round, ahead.base, ahead.hash) == (0, 3, log.hash_at(3))
    assert (ahead.token, ahead.parent, ahead.nodes) == ((7, 30, 31, 32, 33), (-1, 0, 1, 2, 3), 3)
    assert bench.send_ahead() == []


def test_nothing_is_sent_ahead_where_it_is_not_taken_or_of_another_round() -> None:
    assert AheadBench(OPENED).send_ahead() == []
    assert AheadBench().send_ahead(base=2) == []
    answered = AheadBench()
    answered.answer(answered.verdict(7, 30))
    assert answered.send_ahead() == []


def test_a_verdict_that_says_so_is_followed_by_a_round_that_is_out_already() -> None:
    bench = AheadBench()
    bench.send_ahead()

    effects = bench.answer(bench.verdict(7, 30, ahead=2), after_s=0.1)

    (committed,) = find(effects, Committed)
    assert committed.next_tree.token.tolist() == [30, 31, 32]
    assert find(effects, AskDraft) == find(effects, SendUp) == []
    assert (bench.session.state, bench.session.round) == (EdgeState.AWAITING, 1)
    (committed,) = find(bench.answer(bench.verdict(31, 9, kept=2), after_s=0.1), Committed)
    assert committed.was_tree
    assert committed.round_trip_s is None
    assert bench.session.state is EdgeState.DRAFTING


def test_a_round_that_was_never_sent_is_said_as_a_draft_when_nothing_is_heard_of_it() -> None:
    bench = AheadBench()
    bench.send_ahead()
    bench.answer(bench.verdict(7, 30, ahead=2), after_s=0.1)

    again = draft_in(bench.on(TimerDue(), after_s=5.0))

    assert (again.round, again.try_, again.base) == (1, 1, 5)
    assert (again.token, again.parent) == ((31, 32), (-1, 0))
    (committed,) = find(bench.answer(bench.verdict(31, 9, try_=1), after_s=0.1), Committed)
    assert committed.round_trip_s == pytest.approx(0.1)


@pytest.mark.parametrize("count", [4, 5])
def test_a_verdict_that_speaks_of_more_than_was_sent_ahead_asks_for_a_draft(count: int) -> None:
    bench = AheadBench()
    bench.send_ahead()

    effects = bench.answer(bench.verdict(7, 30, ahead=count))

    assert find(effects, AskDraft)
    assert bench.session.state is EdgeState.DRAFTING


def test_the_answer_to_a_round_that_the_verifier_went_on_with_unasked_counts_all_the_same() -> None:
    bench = AheadBench()
    bench.answer(bench.verdict(7, 30, ahead=2))
    assert bench.session.state is EdgeState.DRAFTING

    effects = bench.answer(bench.verdict(31, 9, kept=2))

    (committed,) = find(effects, Committed)
    assert committed.tokens == (31, 9)
    assert bench.session.round == 2
