"""The edge's HTTP face on a real port: what clients see when the cloud is not as it should be."""

import asyncio
from pathlib import Path

import pytest

from specedge.errors import Busy, RetryableError
from specedge_edge.openai import sse
from tests.edge_world import MODEL, EdgeWorld, edge_world
from tests.integration.edge_requests import TEXT, TEXTS, events_of

# What takes this long waits for something: an edge's own patience is half a minute.
SOON_S = 10.0


async def test_without_a_verifier_clients_are_told_so_at_once(world: EdgeWorld) -> None:
    world.cloud.refuse("no_verifier", "no verifier is here")
    for is_streamed in (False, True):
        started_s = asyncio.get_running_loop().time()
        answer = await world.chat(stream=is_streamed)
        took_s = asyncio.get_running_loop().time() - started_s

        assert answer.status_code == 503, answer.text
        assert "no verifier" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
        assert took_s < SOON_S


async def test_a_cloud_that_says_nothing_is_no_hang(world: EdgeWorld) -> None:
    world.cloud.is_gone = True
    started_s = asyncio.get_running_loop().time()

    answer = await world.chat()

    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert asyncio.get_running_loop().time() - started_s < SOON_S


async def test_clients_are_told_who_is_away_and_no_subjects_or_addresses(world: EdgeWorld) -> None:
    served, link = world.edge._slot.get().served, world.edge._cloud.link
    world.cloud.is_gone = True
    unknown = await world.chat()  # by a trial opening
    problem = (await world.client.get("/v1/cluster")).json()["problem"]
    world.cloud.is_gone = False
    await served.ask()
    world.cloud.is_gone = True
    silent = await world.chat()  # by the session's own
    link.cut()
    alone = await world.chat()

    assert problem == "no scheduler answers", "told once, if it is always the same"
    for answer, said in (
        (unknown, "no scheduler answers"),
        (silent, "no scheduler answers"),
        (alone, "this edge has no connection to its broker"),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == said
        assert "retry-after" in answer.headers


async def test_an_edge_loses_patience_when_its_settings_say_so(tmp_path: Path) -> None:
    async with edge_world(tmp_path, patience_s=0.2) as world:
        world.cloud.is_silent = True

        async with asyncio.timeout(SOON_S):
            answer = await world.chat()

        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert world.cloud.drafts, "it had a place, and was waiting for a verdict"


async def test_a_round_is_said_again_as_soon_as_the_link_is_back(world: EdgeWorld) -> None:
    link = world.edge._cloud.link
    world.edge._cloud.served.round_trip_s = 60.0  # so nobody says it again for want of patience
    world.cloud.is_silent = True
    asking = asyncio.create_task(world.complete())
    await world.cloud.until(lambda: len(world.cloud.drafts) == 1)

    link.cut()
    world.cloud.is_silent = False
    link.restore()

    async with asyncio.timeout(5.0):  # by itself, it would be ten seconds later
        await world.cloud.until(lambda: len(world.cloud.drafts) > 1)
    answer = await asking
    assert answer.json()["choices"][0]["text"] == TEXT
    first, again = world.cloud.drafts[:2]
    assert (again.round, again.try_) == (first.round, first.try_ + 1)


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
            async with asyncio.timeout(30):
                while await anext(chunks) != sse.KEEP_ALIVE:
                    pass


async def test_a_lost_verdict_is_asked_for_again(world: EdgeWorld) -> None:
    world.cloud.num_to_lose = 2

    answer = (await world.complete()).json()

    assert answer["choices"][0]["text"] == TEXT
    said = [(draft.round, draft.try_) for draft in world.cloud.drafts]
    assert said[:3] == [(0, 0), (0, 1), (0, 2)]
    # On a busy machine a round may be said again that was only late.
    assert answer["metrics"]["specedge"]["retries"] == sum(again > 0 for _, again in said)


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


async def test_a_choice_without_a_place_is_a_status_while_nothing_was_shown(
    world: EdgeWorld,
) -> None:
    world.cloud.places = 1
    world.cloud.is_silent = True

    answer = await world.chat(stream=True, n=2)

    assert answer.status_code == 429
    assert "retry-after" in answer.headers
    (admitted,) = world.cloud.admitted
    await world.cloud.until(lambda: admitted in [key for _, key in world.cloud.ended])
    assert not world.cloud.sessions


async def test_what_no_verifier_has_room_for_is_refused_without_naming_a_field_of_the_clouds(
    world: EdgeWorld,
) -> None:
    await world.edge._slot.get().served.get()
    world.cloud.refuse("too_long", "the context limit is 9 tokens, 107 were asked for")

    for answer in (await world.chat(), await world.complete(stream=True)):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert error["param"] is None, "which fields make the length, the cloud does not know"


async def test_an_edge_whose_pool_is_full_is_ready_to_say_so(world: EdgeWorld) -> None:
    world.cloud.refuse("busy", "the pool is full", retry_ms=500)
    with pytest.raises(Busy):
        await world.edge._slot.get().served.ask()

    assert (await world.client.get("/ready")).status_code == 200
    assert (await world.chat()).status_code == 429
    world.cloud.refuse("no_verifier", "nobody is here")
    with pytest.raises(RetryableError):
        await world.edge._slot.get().served.ask()
    assert (await world.client.get("/ready")).status_code == 503
