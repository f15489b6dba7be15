"""Scheduler and verifiers over the in-process link: what fails on the way costs only time."""

import asyncio

from specedge.ids import Epoch, VerifierId
from specedge.link.memory import WireProfile
from specedge.protocol import subjects
from specedge.protocol.messages import Cold
from specedge.protocol.round_timer import EdgeSessionConfig
from tests.integration.cloud_world import PROMPT, ScriptedEdge, cloud, hosted, reference, truth


async def test_a_killed_verifiers_sessions_go_on_elsewhere_with_the_right_tokens() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifiers = {name: await world.start_verifier(name, step_ms=5.0) for name in ("v1", "v2")}
        edge = await ScriptedEdge(world, "A").start()
        sessions = [
            edge.session(PROMPT, 120, truth()),
            edge.session([3, 1, 4, 1, 5], 120, truth()),
            edge.session([2, 7, 1, 8], 120, hosted(16)),
        ]
        running = [world.tasks.start(session.run(), name="session") for session in sessions]
        for session in sessions:
            await session.committed_some.wait()
        home = verifiers[sessions[0].machine.verifier]

        await home.kill()
        await asyncio.gather(*running)

        for session in sessions:
            prompt = session.machine.committed[: session.machine.params.prompt].tolist()
            assert session.tokens == reference(prompt, 120)
        survivor = next(name for name, verifier in verifiers.items() if verifier is not home)
        assert {session.verdicts[-1].at for session in sessions} == {survivor}


async def test_a_verifier_that_starts_anew_takes_its_sessions_up_again() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1", step_ms=5.0)
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 120, truth())
        running = world.tasks.start(session.run(), name="session")
        await session.committed_some.wait()

        await verifier.kill()
        await world.start_verifier("v1", step_ms=5.0)
        await running

        assert session.tokens == reference(PROMPT, 120)


async def test_a_new_scheduler_learns_the_sessions_from_their_drafts() -> None:
    async with cloud() as world:
        scheduler = await world.start_scheduler()
        await world.start_verifier("v1", step_ms=5.0)
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 120, truth())
        running = world.tasks.start(session.run(), name="session")
        await session.committed_some.wait()

        scheduler.cancel()
        await world.start_scheduler(epoch=Epoch(2, 0))
        await running

        assert session.tokens == reference(PROMPT, 120)
        assert Cold not in {type(message) for message in session.heard}


async def test_a_drained_verifier_answers_what_it_has_and_its_sessions_move() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifiers = {name: await world.start_verifier(name, step_ms=5.0) for name in ("v1", "v2")}
        edge = await ScriptedEdge(world, "A").start()
        patient = EdgeSessionConfig(min_wait_s=10.0)
        session = edge.session(PROMPT, 150, truth(), config=patient)
        running = world.tasks.start(session.run(), name="session")
        await session.committed_some.wait()
        home = session.machine.verifier
        said_bye = asyncio.Event()
        await edge.link.subscribe(subjects.verifier_bye(VerifierId(home)), lambda _: said_bye.set())

        await verifiers[home].drain()
        await running

        assert said_bye.is_set()
        assert session.tokens == reference(PROMPT, 150)
        assert session.verdicts[-1].at != home
        assert session.machine.counters["resends"] == 0


async def test_whatever_the_wires_lose_repeat_or_reorder_the_tokens_are_right() -> None:
    bad = WireProfile(latency_s=0.001, jitter_s=0.002, loss=0.03, duplication=0.05, reordering=0.05)
    async with cloud(bad) as world:
        await world.start_scheduler()
        for name in ("v1", "v2"):
            await world.start_verifier(name)
        edges = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        patient = EdgeSessionConfig(open_s=10.0, open_timeout_s=0.3, min_wait_s=0.1)
        sessions = [
            edge.session([number, 1, 2], 80, draw, config=patient)
            for number, edge in enumerate(edges)
            for draw in (truth(), hosted(16))
        ]

        ends = await asyncio.gather(*(session.run() for session in sessions))

        for session, ended in zip(sessions, ends, strict=True):
            prompt = session.machine.committed[:3].tolist()
            assert ended.reason == "length", ended
            assert session.tokens == reference(prompt, 80)


async def test_a_broker_that_goes_away_for_a_while_costs_only_time() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", step_ms=5.0)
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 120, truth())
        running = world.tasks.start(session.run(), name="session")
        await session.committed_some.wait()

        world.hub.cut()
        await world.lost_a_verifier("silent")
        world.hub.restore()
        await running

        assert session.tokens == reference(PROMPT, 120)


async def test_a_verifier_told_to_stop_while_the_broker_is_away_stops() -> None:
    async with cloud() as world:
        verifier = await world.start_verifier("v1")
        world.hub.cut()

        async with asyncio.timeout(30):
            await verifier.drain()
