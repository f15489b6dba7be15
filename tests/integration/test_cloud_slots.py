"""Scheduler and verifiers over the in-process link: slots and memory, freed, shared and grown."""

import asyncio

import pytest

from specedge.errors import Busy
from specedge.ids import VerifierId
from specedge.link.base import Message
from specedge.protocol import subjects
from specedge.protocol.codec import decode
from specedge.protocol.reports import Stat
from specedge_verifier.entry import SessionTimes
from tests.integration.cloud_world import (
    PROMPT,
    Draw,
    ReadyToDraft,
    ScriptedEdge,
    cloud,
    hosted,
    reference,
    truth,
)


async def test_a_cancel_frees_the_slot_at_once() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", slots=1, step_ms=5.0)
        first, second = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        session = first.session(PROMPT, 2000, hosted(32))
        running = world.tasks.start(session.run(), name="session")
        await session.committed_some.wait()
        refused = await second.session(PROMPT, 10, truth()).run()

        session.cancel()
        await running
        ended = await second.session(PROMPT, 10, truth()).run()

        assert isinstance(refused.error, Busy)
        assert refused.error.retry_ms
        assert ended.reason == "length"


async def test_a_session_without_a_word_is_freed() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        times = SessionTimes(idle_s=0.2, sweep_s=0.05)
        await world.start_verifier("v1", slots=1, times=times)
        gone, edge = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        await (await ReadyToDraft.make(gone, PROMPT)).say({})
        freed = asyncio.Event()

        def on_stat(message: Message) -> None:
            if decode(Stat, message.payload).slots == (0, 1):
                freed.set()

        await edge.link.subscribe(subjects.verifier_stat(VerifierId("v1")), on_stat)

        async with asyncio.timeout(30):
            await freed.wait()


async def test_a_closed_sessions_rows_serve_the_same_edges_next_turn() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        other = await ScriptedEdge(world, "B").start()
        first = edge.session(list(range(1, 301)), 20, truth())
        await first.run()
        next_turn = [*first.machine.committed.tolist(), 11, 12, 13]

        before = len(verifier.engine.steps)
        again = edge.session(next_turn, 5, truth())
        await again.run()
        own = sum(rows for rows, _, _ in verifier.engine.steps[before:])
        before = len(verifier.engine.steps)
        foreign = other.session(next_turn, 5, truth())
        await foreign.run()
        others = sum(rows for rows, _, _ in verifier.engine.steps[before:])

        assert again.tokens == foreign.tokens == reference(next_turn, 5)
        assert own < 50
        assert others > 300


async def test_more_sessions_than_slots_take_turns() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        times = SessionTimes(park_s=0.0, retry_ms=20)
        await world.start_verifier("v1", slots=2, times=times)
        await world.start_verifier("v2", slots=2, times=times)
        edge = await ScriptedEdge(world, "A").start()
        prompts = [[number, 1, 2] for number in range(4)]
        sessions = [edge.session(prompt, 60, truth()) for prompt in prompts]
        running = [world.tasks.start(session.run(), name="session") for session in sessions]
        for session in sessions:
            await session.committed_some.wait()

        await world.verifiers["v1"].kill()
        await asyncio.gather(*running)

        for session, prompt in zip(sessions, prompts, strict=True):
            assert session.tokens == reference(prompt, 60)


async def test_sessions_that_do_not_fit_the_memory_together_take_turns() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", kv_tokens=400, times=SessionTimes(park_s=0.0))
        edges = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        prompts = [list(range(1, 181)), list(range(2, 182))]
        sessions = [
            edge.session(prompt, 60, truth()) for edge, prompt in zip(edges, prompts, strict=True)
        ]

        await asyncio.gather(*(session.run() for session in sessions))

        for session, prompt in zip(sessions, prompts, strict=True):
            assert session.tokens == reference(prompt, 60)
        registry = world.verifiers["v1"].metrics.registry
        labels = {"event": "parked"}
        parked = registry.get_sample_value("specedge_session_events_total", labels)
        assert parked is not None
        assert parked > 0


@pytest.mark.parametrize("draw", [truth(), hosted(16)], ids=["drafted", "hosted"])
async def test_a_session_that_cannot_grow_in_place_starts_anew_where_it_fits(draw: Draw) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        # Its slot has 212 rows at first, and there is no room for twice as many.
        await world.start_verifier("v1", kv_tokens=400)
        edge = await ScriptedEdge(world, "A").start()
        prompt = list(range(1, 181))
        session = edge.session(prompt, 60, draw)

        async with asyncio.timeout(30):
            await session.run()

        assert session.tokens == reference(prompt, 60)
