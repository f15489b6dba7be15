"""The edge's end of a session: how it asks for a place, and what it does with the answer."""

import numpy as np
import pytest

from specedge.errors import (
    AuthenticationFailed,
    Busy,
    ContextTooLong,
    FingerprintMismatch,
    InvalidRequest,
    LinkTimeout,
    RetryableError,
)
from specedge.protocol import codec
from specedge.protocol.effects import (
    AskDraft,
    Ended,
    LinkRestored,
    OpenAnswered,
    OpenFailed,
    RequestOpen,
    Started,
    TimerDue,
)
from specedge.protocol.messages import MAX_CHUNK_TOKENS, Cold
from specedge.protocol.opening import OpenRequest, Reason, Refused
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from tests.unit.edge_bench import IDENTITY, LIMITS, OPENED, Bench, ended, find, sent, timer_in


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


def test_answers_before_the_session_is_open_are_counted_and_dropped() -> None:
    bench = Bench()
    bench.on(Started())

    assert bench.answer(Cold(round=0)) == []
    assert bench.session.counters["before_open"] == 1
    assert bench.session.limits is None
