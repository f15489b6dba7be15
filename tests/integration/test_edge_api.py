"""The edge's HTTP face on a real port: what clients send, what they get, and what is freed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from specedge.sampling.noise import choice_seed
from specedge_edge.openai import sse
from tests.edge_world import MODEL, EdgeWorld, edge_world

TEXT = "to be or not to be, that is the question"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EdgeWorld]:
    async with edge_world(tmp_path, adaptive=False) as made:
        made.recite(TEXT)
        yield made


@pytest.fixture
async def client(world: EdgeWorld) -> AsyncIterator[AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False)
    async with AsyncOpenAI(
        base_url=f"{world.edge.url}/v1", api_key="none", max_retries=0, http_client=http
    ) as made:
        yield made


async def until_idle(world: EdgeWorld) -> None:
    """Wait until the edge runs nothing."""
    async with asyncio.timeout(5):
        while (await world.client.get("/v1/cluster")).json()["running"]:
            pass


def events_of(body: str) -> list[Any]:
    """The JSON events of a stream that ended as it should."""
    lines = [line for line in body.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [orjson.loads(line.removeprefix("data: ")) for line in lines[:-1]]


# ---------------------------------------------------------------- the official client


async def test_a_chat_answers_whole(client: AsyncOpenAI, world: EdgeWorld) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "speak"}]
    )

    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", TEXT)
    assert choice.finish_reason == "stop"
    prompt = world.tokenizer.encode("[user]speak[assistant]")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(world.tokenizer.encode(TEXT)) + 1  # and the end
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_chat_answers_as_a_stream(client: AsyncOpenAI, world: EdgeWorld) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "speak"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    contents = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(contents) == TEXT
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(world.tokenizer.encode(TEXT)) + 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_text_is_completed_whole_and_as_a_stream(client: AsyncOpenAI) -> None:
    whole = await client.completions.create(model=MODEL, prompt="say: ", max_tokens=5)
    stream = await client.completions.create(model=MODEL, prompt="say: ", max_tokens=5, stream=True)
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert TEXT.startswith(whole.choices[0].text)
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "length"
    assert whole.usage is not None and whole.usage.completion_tokens == 5


async def test_models_are_listed_and_found_by_name(client: AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    found = await client.models.retrieve(MODEL)

    assert listed == [MODEL] == [found.id]
    with pytest.raises(NotFoundError):
        await client.models.retrieve("else")


async def test_the_client_is_told_which_field_is_wrong(client: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as bad:
        await client.completions.create(model=MODEL, prompt="x", temperature=3)
    with pytest.raises(NotFoundError) as unknown:
        await client.completions.create(model="else", prompt="x")

    assert bad.value.param == "temperature"
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


# ---------------------------------------------------------------- what an answer holds


async def test_a_stream_comes_in_the_order_that_clients_rely_on(world: EdgeWorld) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await world.chat(stream=True, stream_options=options, return_token_ids=True)
    first, *middle, last, usage = events_of(answer.text)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["prompt_token_ids"] == world.tokenizer.encode("[user]hi[assistant]")
    assert all(event["choices"][0]["finish_reason"] is None for event in [first, *middle])
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    ids = [token for e in [*middle, last] for token in e["choices"][0]["token_ids"]]
    assert ids == [*world.tokenizer.encode(TEXT), world.cloud.identity.stop[0]]
    counts = [event["usage"]["completion_tokens"] for event in [first, *middle, last]]
    assert counts == sorted(counts) and counts[-1] == len(ids)
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == len(ids)
    assert usage["metrics"]["specedge"]["verifier_id"] == "verifier-1"


async def test_repeated_text_is_drafted_and_accepted(world: EdgeWorld) -> None:
    answer = (await world.complete(prompt=TEXT, temperature=0)).json()

    metrics = answer["metrics"]
    spec, own = metrics["speculative_decoding"], metrics["specedge"]
    tokens = answer["usage"]["completion_tokens"]
    assert answer["choices"][0]["text"] == TEXT
    assert own["rounds"] < tokens
    assert spec["num_accepted_draft_tokens"] + own["rounds"] == tokens
    assert 0 < spec["num_spec_steps"] <= own["rounds"], "where nothing is left to draft, none is"
    assert sum(spec["acceptance_histogram"]) == spec["num_spec_steps"]
    assert own["bytes_up"] == sum(len(draft) for draft in world.cloud.draft_payloads)
    assert own["retries"] == own["resyncs"] == own["hosted_tokens"] == 0


async def test_token_ids_go_in_and_out(world: EdgeWorld) -> None:
    prompt = world.tokenizer.encode("say: ")

    answer = (await world.complete(prompt=prompt, return_token_ids=True)).json()

    choice = answer["choices"][0]
    assert choice["prompt_token_ids"] == prompt
    assert world.tokenizer.decode(choice["token_ids"], skip_special_tokens=True) == TEXT


async def test_a_stop_string_across_tokens_ends_the_session_and_is_counted_exactly(
    world: EdgeWorld,
) -> None:
    stop = "or not to b"

    answer = (await world.complete(stop=["never", stop], return_token_ids=True)).json()

    choice = answer["choices"][0]
    assert choice["text"] == "to be "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    spelled = world.tokenizer.decode(choice["token_ids"])
    assert stop in spelled and stop not in world.tokenizer.decode(choice["token_ids"][:-1])
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"])
    await world.cloud.until(lambda: not world.cloud.sessions)
    assert world.cloud.ended[-1][0] == "close"


async def test_a_streamed_stop_string_is_never_shown_in_part(world: EdgeWorld) -> None:
    answer = await world.complete(stop="not to be", stream=True)

    texts = [event["choices"][0]["text"] for event in events_of(answer.text)]
    assert "".join(texts) == "to be or "


async def test_a_stop_token_ends_the_text_and_is_the_reason(world: EdgeWorld) -> None:
    token = world.tokenizer.encode(TEXT)[4]

    answer = (await world.complete(stop_token_ids=[token])).json()

    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", token)
    assert choice["text"] == world.tokenizer.decode(world.tokenizer.encode(TEXT)[:4])


async def test_an_ignored_end_does_not_end_the_text(world: EdgeWorld) -> None:
    answer = (await world.complete(ignore_eos=True, max_tokens=60)).json()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 60


async def test_several_choices_have_seeds_of_their_own_that_repeat(world: EdgeWorld) -> None:
    seeds = [choice_seed(7, choice) for choice in range(3)]
    words = {seed: world.tokenizer.encode(f"fox {number}") for number, seed in enumerate(seeds)}

    def by_seed(tokens: Any, params: Any) -> int:
        index = len(tokens) - params.prompt
        ids = words[params.seed]
        return int(ids[index]) if index < len(ids) else world.cloud.identity.stop[0]

    world.cloud.script = by_seed
    whole = [(await world.chat(n=3, seed=7)).json() for _ in range(2)]
    alone = (await world.chat(seed=7)).json()
    streamed = events_of((await world.chat(n=3, seed=7, stream=True)).text)

    texts = [[c["message"]["content"] for c in answer["choices"]] for answer in whole]
    assert texts == [["fox 0", "fox 1", "fox 2"]] * 2
    assert alone["choices"][0]["message"]["content"] == "fox 0"
    joined = dict.fromkeys(range(3), "")
    for event in streamed:
        choice = event["choices"][0]
        joined[choice["index"]] += choice["delta"].get("content", "")
    assert list(joined.values()) == texts[0]
    one = len(world.tokenizer.encode("fox 0")) + 1
    assert whole[0]["usage"]["completion_tokens"] == 3 * one
    assert whole[0]["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]


async def test_several_prompts_are_answered_in_order(world: EdgeWorld) -> None:
    answer = (await world.complete(prompt=["a b", "c"], n=2, echo=True)).json()

    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in answer["choices"]] == ["a b" + TEXT] * 2 + ["c" + TEXT] * 2
    lengths = [len(world.tokenizer.encode(prompt)) for prompt in ("a b", "c")]
    assert answer["usage"]["prompt_tokens"] == sum(lengths)


async def test_log_probabilities_come_in_both_shapes(world: EdgeWorld) -> None:
    chat = (await world.chat(logprobs=True, top_logprobs=2)).json()
    text = (await world.complete(logprobs=2)).json()

    content = chat["choices"][0]["logprobs"]["content"]
    tokens = world.tokenizer.encode(TEXT)
    assert len(content) == len(tokens) + 1
    assert "".join(entry["token"] for entry in content[:-1]) == TEXT
    assert content[0]["bytes"] == list(content[0]["token"].encode())
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * len(content)
    shape = text["choices"][0]["logprobs"]
    assert "".join(shape["tokens"][:-1]) == TEXT
    assert shape["text_offset"][:2] == [0, len(shape["tokens"][0])]
    assert all(len(column) == len(tokens) + 1 for column in shape.values())


async def test_bytes_of_log_probabilities_joined_are_the_text_whatever_characters_span_tokens(
    world: EdgeWorld,
) -> None:
    text = "a 🐉🐲 ñ"
    world.recite(text)

    chat = (await world.chat(logprobs=True, top_logprobs=2)).json()["choices"][0]
    whole = (await world.complete(logprobs=1)).json()["choices"][0]

    content = chat["logprobs"]["content"][:-1]  # but the end of the text
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == text
    names, offsets = whole["logprobs"]["tokens"][:-1], whole["logprobs"]["text_offset"]
    assert any(name.startswith("bytes:\\xf0") for name in names)
    assert offsets[len(names)] == len(text), "where the end begins"
    assert offsets == sorted(offsets)


async def test_an_edge_without_a_drafter_lets_the_verifier_run(tmp_path: Path) -> None:
    async with edge_world(tmp_path, drafter="none", grant_tokens=4) as world:
        world.recite(TEXT)
        answer = (await world.complete()).json()

        own = answer["metrics"]["specedge"]
        assert answer["choices"][0]["text"] == TEXT
        assert own["hosted_tokens"] == answer["usage"]["completion_tokens"]
        assert all(draft.run == 4 and not draft.token for draft in world.cloud.drafts)
        assert len(world.cloud.drafts) > 1


# ---------------------------------------------------------------- bad input

CHAT = "/v1/chat/completions"
TEXTS = "/v1/completions"
HELLO = [{"role": "user", "content": "hi"}]
BAD = [
    (TEXTS, {"prompt": "x", "temperature": -1}, "temperature"),
    (TEXTS, {"prompt": "x", "top_p": 0}, "top_p"),
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


async def test_a_wrong_method_is_told_the_right_one_and_the_page_may_be_probed(
    world: EdgeWorld,
) -> None:
    wrong = await world.client.get(CHAT)
    page = await world.client.head("/")

    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (page.status_code, page.content) == (200, b"")


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


async def test_paths_and_methods_that_are_not_served_say_so(world: EdgeWorld) -> None:
    responses = await world.client.post("/v1/responses", json={})
    wrong_method = await world.client.get(TEXTS)

    assert responses.status_code == 404 and "/v1/responses" in responses.json()["error"]["message"]
    assert wrong_method.status_code == 405 and "error" in wrong_method.json()


async def test_unknown_fields_are_ignored(world: EdgeWorld) -> None:
    answer = await world.complete(frobnicate=1, user="me", service_tier="auto")

    assert answer.status_code == 200


# ---------------------------------------------------------------- the client goes away


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_frees_its_session(world: EdgeWorld, is_streamed: bool) -> None:
    world.cloud.is_silent = True
    asking = asyncio.create_task(world.chat(stream=is_streamed, n=2))
    await world.cloud.until(lambda: len(world.cloud.drafts) >= 2)

    asking.cancel()

    await world.cloud.until(lambda: not world.cloud.sessions)
    assert [kind for kind, _ in world.cloud.ended[-2:]] == ["cancel"] * 2
    world.cloud.is_silent = False
    await until_idle(world)


async def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_its_session(
    world: EdgeWorld,
) -> None:
    async with world.client.stream(
        "POST",
        TEXTS,
        json={"model": MODEL, "prompt": "x", "max_tokens": 1000, "ignore_eos": True}
        | {"stream": True},
    ) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        world.cloud.is_silent = True

    await world.cloud.until(lambda: any(kind == "cancel" for kind, _ in world.cloud.ended))
    assert not world.cloud.sessions


async def test_a_client_that_reads_late_gets_all_of_it(world: EdgeWorld) -> None:
    world.recite("she sells sea shells " * 60)
    body = {"model": MODEL, "prompt": "x", "max_tokens": 1000, "stream": True, "stop": ["never"]}
    async with world.client.stream("POST", TEXTS, json=body) as answer:
        await until_idle(world)  # it was all generated before a byte of it was read
        text = "".join(event["choices"][0]["text"] for event in events_of(await read(answer)))

    assert text == "she sells sea shells " * 60


async def read(answer: httpx.Response) -> str:
    return (await answer.aread()).decode()


# ---------------------------------------------------------------- the cloud is not as it should be


async def test_without_a_verifier_clients_are_told_so_at_once(world: EdgeWorld) -> None:
    world.cloud.refuse("no_verifier", "no verifier is here")
    for is_streamed in (False, True):
        started_s = asyncio.get_running_loop().time()
        answer = await world.chat(stream=is_streamed)
        took_s = asyncio.get_running_loop().time() - started_s

        assert answer.status_code == 503, answer.text
        assert "no verifier" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
        assert took_s < 2.0


async def test_a_cloud_that_says_nothing_is_no_hang(world: EdgeWorld) -> None:
    world.cloud.is_gone = True
    started_s = asyncio.get_running_loop().time()

    answer = await world.chat()

    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert asyncio.get_running_loop().time() - started_s < 2.0


async def test_a_full_pool_is_told_with_the_time_to_come_back(world: EdgeWorld) -> None:
    world.cloud.refuse("busy", "the pool is full", retry_ms=1500)

    answer = await world.chat(stream=True)

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["retry-after-ms"] == "1500"


async def test_more_choices_than_an_edge_ever_runs_are_refused_for_good(tmp_path: Path) -> None:
    async with edge_world(tmp_path, max_concurrent=2) as world:
        answer = await world.chat(n=3)

        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "n"
        assert (await world.chat(n=2)).status_code == 200


async def test_more_choices_than_an_edge_runs_now_may_come_back(tmp_path: Path) -> None:
    async with edge_world(tmp_path, max_concurrent=2) as world:
        world.cloud.is_silent = True
        body = {"model": MODEL, "prompt": "x", "stream": True}
        async with world.client.stream("POST", TEXTS, json=body) as running:
            assert running.status_code == 200
            answer = await world.chat(n=2)

        assert answer.status_code == 429
        assert "retry-after" in answer.headers


async def test_an_error_after_the_stream_began_is_its_last_event(world: EdgeWorld) -> None:
    world.cloud.rejection = "invalid"

    answer = await world.chat(stream=True)

    assert answer.status_code == 200
    *_, last = events_of(answer.text)
    assert last["error"]["type"] == "server_error"
    await world.cloud.until(lambda: not world.cloud.sessions)


async def test_a_waiting_stream_is_kept_alive(tmp_path: Path) -> None:
    async with edge_world(tmp_path, keep_alive_s=0.05) as world:
        world.cloud.is_silent = True
        body = {"model": MODEL, "prompt": "x", "stream": True}
        async with world.client.stream("POST", TEXTS, json=body) as answer:
            chunks = answer.aiter_bytes()
            async with asyncio.timeout(5):
                while await anext(chunks) != sse.KEEP_ALIVE:
                    pass


async def test_an_edge_that_shuts_down_tells_whoever_still_waits(tmp_path: Path) -> None:
    async with edge_world(tmp_path, drain_s=0.1) as world:
        world.cloud.is_silent = True
        streamed = asyncio.create_task(world.chat(stream=True))
        whole = asyncio.create_task(world.chat())
        await world.cloud.until(lambda: len(world.cloud.drafts) >= 2)

        await world.edge.drain()

        *_, last = events_of((await streamed).text)
        assert "shutting down" in last["error"]["message"]
        assert (await whole).status_code == 503
        assert (await world.chat()).status_code == 503
        await world.cloud.until(lambda: not world.cloud.sessions)


async def test_an_edge_that_shuts_down_lets_answers_end(tmp_path: Path) -> None:
    async with edge_world(tmp_path, drain_s=30) as world:
        world.cloud.is_silent = True
        whole = asyncio.create_task(world.chat())
        await world.cloud.until(lambda: bool(world.cloud.drafts))
        draining = asyncio.create_task(world.edge.drain())
        world.cloud.is_silent = False  # the round is said again, and now answered

        assert (await whole).status_code == 200
        await draining


async def test_a_lost_verdict_is_asked_for_again(world: EdgeWorld) -> None:
    world.cloud.num_to_lose = 2

    answer = (await world.complete()).json()

    assert answer["choices"][0]["text"] == TEXT
    assert answer["metrics"]["specedge"]["retries"] == 2


async def test_another_tokenizer_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    async with edge_world(tmp_path, cloud_tokenizer_extra=("<more>",)) as world:
        answer = await world.chat()
        ready = await world.client.get("/ready")

        ours = world.fingerprint
        theirs = world.cloud.identity.tokenizer
        assert ours != theirs
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "fingerprint_mismatch"
        for text in (answer.text, ready.text):
            assert ours in text and theirs in text
        assert ready.status_code == 503
        assert not world.cloud.drafts


# ---------------------------------------------------------------- gates and small routes


def headers_of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_with_keys_only_their_holders_come_below_v1(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("second\nthird\n")
    async with edge_world(tmp_path, api_key="first", api_key_file=keys) as world:
        for key in ("first", "second", "third"):
            shown = await world.client.get("/v1/models", headers=headers_of(key))
            assert shown.status_code == 200
        for headers in ({}, {"Authorization": "Bearer fourth"}, {"Authorization": "Basic first"}):
            refused = await world.client.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        for path in ("/", "/live", "/ready", "/metrics", "/version"):
            assert (await world.client.get(path)).status_code == 200
        for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
            assert (await world.client.post(path, json=body)).status_code == 401
            headers = headers_of("first")
            assert (await world.client.post(path, json=body, headers=headers)).is_success


async def test_requests_have_ids_the_callers_own_if_it_is_speakable(world: EdgeWorld) -> None:
    own = await world.client.get("/version", headers={"x-request-id": "abc-1"})
    long = await world.client.get("/version", headers={"x-request-id": "a" * 500})
    none = await world.client.get("/version")

    assert own.headers["x-request-id"] == "abc-1"
    assert long.headers["x-request-id"] != "a" * 500
    assert len(none.headers["x-request-id"]) == 32


async def test_browsers_elsewhere_are_kept_out_unless_they_are_let_in(tmp_path: Path) -> None:
    headers = {"Origin": "https://there.example"}
    async with edge_world(tmp_path / "a") as world:
        answer = await world.client.get("/v1/models", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
    async with edge_world(tmp_path / "b", allowed_origins="https://there.example") as world:
        answer = await world.client.get("/v1/models", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://there.example"


async def test_text_and_tokens_can_be_turned_into_one_another(world: EdgeWorld) -> None:
    tokens = (await world.client.post("/tokenize", json={"prompt": TEXT})).json()
    text = await world.client.post("/detokenize", json={"tokens": tokens["tokens"]})
    outside = await world.client.post("/detokenize", json={"tokens": [99999]})

    assert tokens["count"] == len(tokens["tokens"])
    assert text.json() == {"prompt": TEXT}
    assert outside.status_code == 400


async def test_the_page_holds_all_it_needs(world: EdgeWorld) -> None:
    page = await world.client.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text and "https://" not in page.text


async def test_metrics_appear_under_both_names(world: EdgeWorld) -> None:
    await world.complete(prompt=TEXT)

    exposition = (await world.client.get("/metrics")).text

    for prefix in ("specedge_", "vllm:"):
        assert f'{prefix}request_success_total{{finished_reason="stop",model_name="tiny"}} 1.0' in (
            exposition
        )
        assert f'{prefix}spec_decode_num_accepted_tokens_total{{model_name="tiny"}}' in exposition


async def test_the_api_describes_itself(world: EdgeWorld) -> None:
    described = (await world.client.get("/openapi.json")).json()

    assert {CHAT, TEXTS, "/v1/models"} <= set(described["paths"])
