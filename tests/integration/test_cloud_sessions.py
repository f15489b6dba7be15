"""Scheduler and verifiers over the in-process link: sessions that get the reference's tokens."""

import asyncio

from tests.integration.cloud_world import PROMPT, ScriptedEdge, cloud, hosted, reference, truth

TRIES = 10  # a busy machine may keep sessions apart for a while, hardly each time


async def test_a_drafted_session_gets_exactly_the_reference_tokens() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 40, truth())

        ended = await session.run()

        assert ended.reason == "length"
        assert session.tokens == reference(PROMPT, 40)
        assert len(session.verdicts) < 40


async def test_a_hosted_session_gets_exactly_the_reference_tokens() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 40, hosted(8))

        ended = await session.run()

        assert ended.reason == "length"
        assert session.tokens == reference(PROMPT, 40)


async def test_two_edges_share_steps() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1", step_ms=20.0)
        edges = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        prompts = [[1, 2, 3], [4, 5, 6, 7]]
        shares: list[float] = []
        while len(shares) < TRIES and not (shares and shares[-1] >= 1 / 8):
            sessions = [
                edge.session(prompt, 60, truth(wrong_every=2))
                for edge, prompt in zip(edges, prompts, strict=True)
            ]
            before = len(verifier.engine.steps)

            await asyncio.gather(*(session.run() for session in sessions))

            for session, prompt in zip(sessions, prompts, strict=True):
                assert session.tokens == reference(prompt, 60)
            num_rounds = sum(len(session.verdicts) for session in sessions)
            in_step = [num_sessions for _, _, num_sessions in verifier.engine.steps[before:]]
            shares.append(in_step.count(2) / num_rounds)
        assert shares[-1] >= 1 / 8, verifier.engine.steps


async def test_a_long_prompt_does_not_stall_another_sessions_rounds() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1", step_ms=2.0, max_step_tokens=64)
        edge = await ScriptedEdge(world, "A").start()
        other = await ScriptedEdge(world, "B").start()
        long_prompt = list(range(1, 3001))
        short = edge.session(PROMPT, 400, truth())
        running = world.tasks.start(short.run(), name="short")
        await short.committed_some.wait()
        before = len(verifier.engine.steps)

        long_session = other.session(long_prompt, 3, truth())
        await long_session.run()

        during = verifier.engine.steps[before:]
        prefilling = [step for step in during if step[1]]
        assert len(prefilling) >= 3000 // 64
        assert all(rows <= 64 for rows, _, _ in during)
        # The other session's rounds run in the same steps as the prefill.
        mixed = sum(rows > prefill for rows, prefill, _ in prefilling)
        assert mixed >= len(prefilling) // 5, during
        assert long_session.tokens == reference(long_prompt, 3)
        short.cancel()
        await running


async def test_log_probabilities_come_with_every_token_that_is_committed() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 20, truth(), logprobs=2)

        await session.run()

        assert session.tokens == reference(PROMPT, 20)
        for verdict in session.verdicts:
            assert verdict.lp is not None
            assert len(verdict.lp) == len(verdict.path) + 1
            assert all(len(one.top) == 2 for one in verdict.lp)
