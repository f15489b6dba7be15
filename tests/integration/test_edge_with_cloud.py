"""The real edge before the real scheduler and verifiers, on emulated engines: the tokens that come
out of the HTTP face are the target's own, whatever drafts them and whatever happens on the way."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from specedge.ids import VerifierId
from specedge.link.base import Message
from specedge.link.memory import WireProfile
from specedge.params import SamplingParams
from specedge.protocol.codec import decode
from specedge.protocol.reports import Stat
from specedge.protocol.subjects import verifier_stat
from specedge.sampling.noise import choice_seed
from tests.integration.cloud_world import cloud
from tests.integration.edge_on_cloud import (
    COMPLETIONS,
    PROMPT_IDS,
    edge_on,
    expected,
    persist,
    request,
)


@pytest.mark.parametrize("drafter", ["prompt-lookup", "emulated", "none"])
async def test_the_tokens_are_the_targets_own_whatever_drafts_them(
    tmp_path: Path, drafter: str
) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("verifier-1")
        async with edge_on(world, tmp_path, drafter=drafter) as client:
            greedy = (await client.post(COMPLETIONS, json=request(50))).json()
            sampling = {"temperature": 0.8, "seed": 11, "n": 3}
            sampled = (await client.post(COMPLETIONS, json=request(20, **sampling))).json()

    assert greedy["choices"][0]["token_ids"] == expected(50)
    assert greedy["usage"] == {
        "prompt_tokens": len(PROMPT_IDS),
        "completion_tokens": 50,
        "total_tokens": len(PROMPT_IDS) + 50,
    }
    for choice in sampled["choices"]:
        params = SamplingParams(temperature=0.8, seed=choice_seed(11, choice["index"]))
        assert choice["token_ids"] == expected(20, params)


async def test_several_clients_at_once_each_get_their_own(tmp_path: Path) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("verifier-1")
        async with edge_on(world, tmp_path, drafter="emulated") as client:
            asked = [client.post(COMPLETIONS, json=request(10 + n)) for n in range(8)]
            answers = [answer.json() for answer in await asyncio.gather(*asked)]

    for number, answer in enumerate(answers):
        assert answer["choices"][0]["token_ids"] == expected(10 + number)


async def test_a_bad_network_changes_no_token(tmp_path: Path) -> None:
    wire = WireProfile(latency_s=0.002, jitter_s=0.002, loss=0.05, duplication=0.05)
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("verifier-1")
        async with edge_on(world, tmp_path, wire=wire, drafter="emulated") as client:
            answer = await persist(client, 60)

    assert answer.json()["choices"][0]["token_ids"] == expected(60)


async def test_a_verifier_that_dies_in_the_middle_of_a_stream_is_not_noticed_by_the_text(
    tmp_path: Path,
) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        first = await world.start_verifier("verifier-1", step_ms=5)
        async with edge_on(world, tmp_path, drafter="none", grant_tokens=16) as client:
            ids: list[int] = []
            body = request(80, stream=True)
            async with client.stream("POST", COMPLETIONS, json=body) as answer:
                async for event in events_of(answer):
                    ids += event["choices"][0]["token_ids"]
                    if len(ids) == 10:
                        await world.start_verifier("verifier-2", step_ms=1)
                        await first.kill()

    assert ids == expected(80)


async def test_a_client_that_leaves_frees_the_verifier(tmp_path: Path) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("verifier-1", step_ms=2)
        held = Watch()
        watcher = world.hub.link("watcher")
        await watcher.subscribe(verifier_stat(VerifierId("verifier-1")), held.on_stat)
        async with edge_on(world, tmp_path, drafter="none") as client:
            body = request(3000, stream=True, ignore_eos=True)
            async with (
                client.stream("POST", COMPLETIONS, json=body) as answer,
                aclosing(events_of(answer)) as events,
            ):
                await anext(events)
                await held.until(1)
            await held.until(0)


class Watch:
    """How many sessions a verifier says it holds."""

    def __init__(self) -> None:
        self._count = -1
        self._heard = asyncio.Event()

    def on_stat(self, message: Message) -> None:
        sessions = decode(Stat, message.payload).sessions
        if sessions is not None:
            self._count = len(sessions)
            self._heard.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self._count != count:
                self._heard.clear()
                await self._heard.wait()


async def events_of(answer: httpx.Response) -> AsyncGenerator[Any, None]:
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield orjson.loads(line.removeprefix("data: "))
