"""The edge's HTTP face on a real port: what the official client sends and gets."""

from collections.abc import AsyncIterator

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.edge_world import MODEL, EdgeWorld
from tests.integration.edge_requests import TEXT


@pytest.fixture
async def client(world: EdgeWorld) -> AsyncIterator[AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False)
    async with AsyncOpenAI(
        base_url=f"{world.edge.url}/v1", api_key="none", max_retries=0, http_client=http
    ) as made:
        yield made


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
