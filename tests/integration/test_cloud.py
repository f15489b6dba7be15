"""The scheduler and verifiers together, over the in-process link, with emulated engines."""

from tests.integration.cloud_world import ScriptedEdge, cloud, hosted, reference, truth

PROMPT = [5, 6, 7, 8, 9]


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
