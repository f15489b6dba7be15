"""The edge's HTTP face on a real port: clients that leave, and an edge that shuts down."""

import asyncio
from pathlib import Path

import httpx
import pytest

from specedge.protocol.effects import Committed
from specedge.protocol.opening import Opened
from specedge.protocol.subjects import Up
from specedge_edge.generation import Generation
from specedge_edge.openai.planning import plan_completion
from specedge_edge.openai.schemas import CompletionBody
from tests.edge_world import MODEL, EdgeWorld, edge_world
from tests.integration.edge_requests import TEXTS, events_of, until_idle

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


# ---------------------------------------------------------------- the edge goes away


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


# ---------------------------------------------------------------- one choice


class Slow:
    """Reads what comes, until the last of it: then never again."""

    def __init__(self) -> None:
        self.has_stopped_reading = asyncio.Event()

    async def on_admitted(self, opened: Opened) -> None:
        """See ``Listener``."""

    async def on_committed(self, committed: Committed) -> bool:
        """See ``Listener``."""
        if committed.verdict.final is not None:
            self.has_stopped_reading.set()
            await asyncio.Event().wait()
        return True


async def test_who_leaves_with_the_last_tokens_unread_ends_the_session_all_the_same(
    world: EdgeWorld,
) -> None:
    backend = world.edge._slot.get()
    body = CompletionBody(prompt="x", max_tokens=40)
    ids = world.tokenizer.encode("x")
    [plan] = plan_completion(body, [ids], await backend.served.get(), backend.codec)
    reader = Slow()
    generation = Generation(backend.desk._upstream, plan.prompt, plan.params, reader)
    running = asyncio.create_task(generation.run())
    await reader.has_stopped_reading.wait()

    running.cancel()

    await world.cloud.until(lambda: (Up.CLOSE, generation._key) in world.cloud.ended)
    with pytest.raises(asyncio.CancelledError):
        await running
