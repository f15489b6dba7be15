"""What of a request's body is taken, ignored or refused, and how it is told."""

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from specedge.errors import (
    Busy,
    ContextTooLong,
    FingerprintMismatch,
    InvalidRequest,
    RetryableError,
)
from specedge_edge.openai.errors import (
    ApiError,
    UnknownModel,
    from_exception,
    from_session,
    from_validation,
)
from specedge_edge.openai.schemas import ChatBody, CompletionBody

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"messages": MESSAGES, **fields})


def refusal(**fields: Any) -> ApiError:
    """What a client is told of a chat's fields that are no good."""
    with pytest.raises(ValidationError) as raised:
        chat(**fields)
    located = [{**e, "loc": ("body", *e["loc"])} for e in raised.value.errors()]
    return from_validation(RequestValidationError(located))


def completion(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"prompt": "hi", **fields})


def test_what_common_clients_send_is_taken() -> None:
    body = ChatBody.model_validate(
        {
            "model": "m",
            "messages": [
                {"role": "developer", "content": "be brief"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
            ],
            "max_completion_tokens": 7,
            "max_tokens": 9,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "ignore_eos": True,
            "user": "someone",
            "response_format": {"type": "text"},
            "tools": [],
            "tool_choice": "none",
            "store": False,
            "metadata": {"a": "b"},
            "temperature": 1,
            "stop": None,
        }
    )

    assert body.token_limit == 7
    assert body.wants_usage and body.wants_usage_in_every_chunk
    assert [m.for_template() for m in body.messages] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
    ]


def test_a_stop_may_be_one_string_or_several() -> None:
    assert chat(stop="x").stops == ("x",)
    assert chat(stop=["x", "y"]).stops == ("x", "y")
    assert chat().stops == ()


@pytest.mark.parametrize(
    "field", ["max_tokens", "max_completion_tokens", "min_tokens", "n", "seed", "top_k"]
)
def test_a_whole_number_may_be_spelled_with_a_point(field: str) -> None:
    value = getattr(chat(**{field: 8.0}), field)

    assert value == 8 and isinstance(value, int)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n", "seed"])
@pytest.mark.parametrize("value", [8.5, True, "8", float("inf"), float("nan")])
def test_what_is_no_whole_number_is_refused_by_its_field(field: str, value: Any) -> None:
    told = refusal(**{field: value})

    assert told.param == field
    assert "integer" in told.message


def test_as_many_tokens_as_fit_may_be_asked_for() -> None:
    assert chat(max_tokens=-1).token_limit == completion(max_tokens=-1.0).token_limit == -1
    for limit in (0, -2):
        told = refusal(max_tokens=limit)
        assert told.param == "max_tokens"
        assert "greater than or equal to 1" in told.message


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", 5])
def test_content_that_is_no_text_is_said_to_be_that(kind: Any) -> None:
    told = refusal(messages=[{"role": "user", "content": [{"type": kind}]}])

    assert told.param == "messages[0].content[0].type"
    assert "only text content is served" in told.message


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ["hi"]),
        (["hi", "ho"], ["hi", "ho"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_may_be_text_or_ids_one_or_several(prompt: Any, prompts: Any) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "field",
    ["tools", "functions", "audio", "guided_json", "prompt_logprobs", "documents", "chat_template"],
)
def test_what_is_not_supported_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat(**{field: [{"type": "function"}]})

    assert raised.value.field == field


def test_structured_output_is_refused_rather_than_ignored() -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat(response_format={"type": "json_object"})

    assert raised.value.field == "response_format"


def test_log_probabilities_count_alike_in_both_kinds() -> None:
    assert chat().num_logprobs == completion().num_logprobs == -1
    assert chat(logprobs=True).num_logprobs == completion(logprobs=0).num_logprobs == 0
    assert chat(logprobs=True, top_logprobs=3).num_logprobs == 3
    with pytest.raises(InvalidRequest, match="top_logprobs"):
        chat(top_logprobs=3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"stop": [1]}, "stop"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"n": 0}, "n"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_the_message_names_the_field_as_the_client_wrote_it(fields: Any, param: str) -> None:
    told = refusal(**fields)

    assert told.status == 400
    assert told.param is not None and told.param.startswith(param)
    assert told.param.split("[")[0] in told.message
    assert len(told.message) < 500


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnknownModel("no", field="model"), 404, "model_not_found"),
        (ContextTooLong("long", field="prompt"), 400, "context_length_exceeded"),
        (InvalidRequest("bad", field="n"), 400, None),
        (
            FingerprintMismatch("other", field="t", ours="aa", theirs="bb"),
            503,
            "fingerprint_mismatch",
        ),
        (Busy("full", retry_ms=2500), 429, "rate_limit_exceeded"),
        (RetryableError("away"), 503, "service_unavailable"),
        (RuntimeError("/secret/path"), 500, None),
    ],
)
def test_every_family_of_errors_has_its_status(error: Exception, status: int, code: str) -> None:
    told = from_exception(error)

    assert (told.status, told.code) == (status, code)
    assert "secret" not in told.message


def test_whoever_should_come_back_is_told_when() -> None:
    headers = from_exception(Busy("full", retry_ms=2500)).headers()

    assert headers == {"Retry-After": "3", "retry-after-ms": "2500"}


def test_a_session_refused_for_a_field_of_the_wire_is_not_the_clients_fault() -> None:
    assert from_session(InvalidRequest("parent", field="parent")).status == 500
    assert from_session(ContextTooLong("long", field="max_tokens")).status == 400


MANY = 50_000


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [1] * MANY}]},
        {"messages": [1] * MANY},
        {"messages": MESSAGES, "stop_token_ids": ["x"] * MANY},
        {"prompt": [1, *["x"] * MANY]},
        {"prompt": [[1], *["x"] * MANY]},
        {"prompt": [["x"] * MANY]},
        {"prompt": "x", "stop": [1] * MANY},
    ],
)
def test_the_first_fault_of_a_long_list_is_enough(body: dict[str, Any]) -> None:
    kind = ChatBody if "messages" in body else CompletionBody
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(body)
    assert raised.value.error_count() < 12  # a union's members complain one by one


def test_too_many_biases_are_counted_before_they_are_read() -> None:
    with pytest.raises(InvalidRequest, match="1024") as raised:
        completion(logit_bias={str(token): "x" for token in range(MANY)})
    assert raised.value.field == "logit_bias"


def test_a_turns_name_reaches_the_template() -> None:
    body = chat(messages=[{"role": "user", "content": "hi", "name": "Ada"}])

    assert body.messages[0].for_template() == {"role": "user", "content": "hi", "name": "Ada"}


def test_only_the_assistant_may_say_nothing() -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat(messages=[{"role": "user"}])
    assert raised.value.field == "messages"
    said = chat(messages=[*MESSAGES, {"role": "assistant", "content": None}]).messages[1]
    assert said.for_template()["content"] == ""


def test_no_top_logprobs_need_no_logprobs() -> None:
    assert chat(top_logprobs=0).num_logprobs == -1
