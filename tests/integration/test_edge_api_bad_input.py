"""The edge's HTTP face on a real port: input that is refused, and by which field."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.edge_world import EdgeWorld
from tests.integration.edge_requests import CHAT, TEXTS

HELLO = [{"role": "user", "content": "hi"}]
PART = {"type": "text", "text": "x"}
BAD = [
    (TEXTS, {"prompt": "x", "temperature": -1}, "temperature"),
    (TEXTS, {"prompt": "x", "top_p": -0.1}, "top_p"),
    (TEXTS, {"prompt": "x", "top_k": "many"}, "top_k"),
    (TEXTS, {"prompt": "x", "n": 999}, "n"),
    (TEXTS, {"prompt": "x", "max_tokens": 0}, "max_tokens"),
    (TEXTS, {"prompt": "x", "min_tokens": 9, "max_tokens": 3}, "min_tokens"),
    (TEXTS, {"prompt": "x", "logprobs": 99}, "logprobs"),
    (TEXTS, {"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias"),
    (TEXTS, {"prompt": "x", "logit_bias": {"99999": 1}}, "logit_bias"),
    (TEXTS, {"prompt": "x", "logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    (TEXTS, {"prompt": ["x"] * 40, "n": 2}, "n"),
    (TEXTS, {"prompt": "x", "stop_token_ids": [99999]}, "stop_token_ids"),
    (TEXTS, {"prompt": "x", "suffix": "y"}, "suffix"),
    (TEXTS, {"prompt": "x", "best_of": 3}, "best_of"),
    (TEXTS, {"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
    (TEXTS, {"prompt": [1, 99999]}, "prompt"),
    (TEXTS, {"prompt": [1, -1]}, "prompt"),
    (TEXTS, {"prompt": ""}, "prompt"),
    (TEXTS, {"prompt": []}, "prompt"),
    (TEXTS, {}, "prompt"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages"),
    (CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"messages": HELLO, "echo": True}, "echo"),
    (CHAT, {"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": HELLO, "stop": [""]}, "stop[0]"),
    (CHAT, {"messages": HELLO, "stream": "yes"}, "stream"),
    (CHAT, {"messages": HELLO, "stop": ["x"] * 17}, "stop"),
    (CHAT, {"messages": [{"role": "user", "content": [PART] * 4097}]}, "messages[0].content"),
    (TEXTS, {"prompt": ["x"] * 65}, "prompt"),
]


async def test_too_long_a_list_is_said_to_be_too_long_and_not_of_the_wrong_kind(
    world: EdgeWorld,
) -> None:
    for path, body in (
        (CHAT, {"messages": HELLO, "stop": ["x"] * 17}),
        (TEXTS, {"prompt": ["x"] * 65}),
    ):
        said = (await world.client.post(path, json=body)).json()["error"]["message"]
        assert "at most" in said, said


async def test_an_id_out_of_range_is_said_to_be_that(world: EdgeWorld) -> None:
    for prompt, limit in (([1, -1], "greater than or equal to 0"), ([[1], [2**31]], "less than")):
        answer = await world.client.post(TEXTS, json={"prompt": prompt})

        assert answer.status_code == 400
        assert limit in answer.json()["error"]["message"]


async def test_a_text_that_no_context_holds_is_refused_before_it_is_encoded(
    world: EdgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = type(world.tokenizer).encode

    def watched(tokenizer: Any, text: str, **more: Any) -> Any:
        encoded.append(len(text))
        return encode(tokenizer, text, **more)

    monkeypatch.setattr(type(world.tokenizer), "encode", watched)
    long = "ab c " * 1_000_000
    answers = [
        await world.complete(prompt=long),
        await world.chat(messages=[{"role": "user", "content": long}]),
        await world.client.post("/tokenize", json={"prompt": long}),
    ]

    for answer in answers:
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert max(encoded, default=0) < 1000


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_bad_input_is_refused_naming_the_field(world: EdgeWorld, is_streamed: bool) -> None:
    for path, body, param in BAD:
        wanted = {"stream": is_streamed, **body} if is_streamed else body
        answer = await world.client.post(path, json=wanted)

        error = answer.json()["error"]
        assert answer.status_code == 400, (body, answer.text)
        assert error["type"] == "invalid_request_error", body
        assert error["param"] is not None and error["param"].startswith(param), (body, error)
        assert param.split("[")[0] in error["message"] or param == "messages", (body, error)
    assert not world.cloud.drafts


async def test_a_prompt_over_the_context_is_refused_in_the_words_that_clients_look_for(
    world: EdgeWorld,
) -> None:
    for answer in (
        await world.complete(prompt="fox " * 5000),
        await world.complete(prompt="fox", max_tokens=4096),
        await world.chat(max_completion_tokens=5000),
    ):
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert error["code"] == "context_length_exceeded"
        assert "maximum context length is 4096 tokens" in error["message"]


async def test_what_is_not_json_is_refused(world: EdgeWorld) -> None:
    headers = {"content-type": "application/json"}
    for content in (b"{", b"", b"[]", b"\xff\xfe", b'"x"'):
        answer = await world.client.post(TEXTS, content=content, headers=headers)

        assert answer.status_code == 400, content
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_of_another_type_is_refused_with_advice(world: EdgeWorld) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}

    answer = await world.client.post(TEXTS, content=b'{"prompt": "x"}', headers=headers)

    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


async def test_a_body_too_large_to_be_meant_is_refused(world: EdgeWorld) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 2**19

    answer = await world.client.post(
        TEXTS, content=endless(), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 413


async def test_text_that_is_no_unicode_is_refused(world: EdgeWorld) -> None:
    headers = {"content-type": "application/json"}
    bodies = {
        TEXTS: rb'{"prompt": "\ud800"}',
        CHAT: rb'{"messages": [{"role": "user", "content": "\udfff"}]}',
        "/tokenize": rb'{"model": "\ud800", "prompt": "x"}',
    }
    for path, content in bodies.items():
        answer = await world.client.post(path, content=content, headers=headers)

        assert answer.status_code in (400, 404), (path, answer.text)
        assert answer.json()["error"]["param"] is not None


@pytest.mark.parametrize(
    "options", [{"chat_template": "{{ 1 }}"}, {"tokenize": True}, {"conversation": []}]
)
async def test_a_client_may_not_bring_its_own_template(
    world: EdgeWorld, options: dict[str, Any]
) -> None:
    answer = await world.chat(chat_template_kwargs=options)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "chat_template_kwargs"


async def test_a_wrong_model_is_told_the_right_one(world: EdgeWorld) -> None:
    for name in ("gpt-4o", "x" * 400):
        asked = await world.chat(model=name)
        looked_up = await world.client.get(f"/v1/models/{name}")

        for answer in (asked, looked_up):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, "model_not_found")
            assert name[:200] in error["message"]
            assert error["message"].endswith("this edge serves 'tiny'")


async def test_too_many_texts_at_once_are_refused_in_a_clients_words(
    world: EdgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.edge._texts, "_max_pending", 0)

    answers = [
        await world.chat(),
        await world.complete(),
        await world.client.post("/tokenize", json={"prompt": "x"}),
        await world.client.post("/detokenize", json={"tokens": [1]}),
    ]

    for answer in answers:
        assert answer.status_code == 429
        assert answer.json()["error"]["message"] == "this edge has too many requests at once"
        assert answer.headers["retry-after"] == "1"


async def test_unknown_fields_are_ignored(world: EdgeWorld) -> None:
    answer = await world.complete(frobnicate=1, user="me", service_tier="auto")

    assert answer.status_code == 200
