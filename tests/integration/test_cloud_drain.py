"""A verifier told to stop, over the in-process link: what it still answers, and what not."""

import asyncio

from specedge.ids import VerifierId
from specedge.link.base import Message
from specedge.protocol import subjects
from specedge.protocol.codec import batch_item, decode, encode
from specedge.protocol.messages import Batch, Draft, Verdict
from specedge.protocol.reports import Stat
from specedge.protocol.subjects import Work
from tests.integration.cloud_world import PROMPT, ReadyToDraft, ScriptedEdge, cloud

V1 = VerifierId("v1")


async def test_a_draft_that_was_on_its_way_when_the_drain_began_is_answered() -> None:
    async with cloud() as world:
        scheduler = await world.start_scheduler()
        verifier = await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        session = await ReadyToDraft.make(edge, PROMPT)
        first = await session.say({})
        assert isinstance(first, Verdict)
        draft = Draft(round=1, base=first.base, hash=first.hash, budget_ms=2000)
        item = batch_item(draft, session.key, budget_ms=2000, held_ms=0.0)
        late = encode(Batch(epoch=(9, 0), seq=1, items=(item,)))
        scheduler.cancel()  # the test speaks in its place
        sent = asyncio.Event()

        def on_stat(message: Message) -> None:
            if decode(Stat, message.payload).draining and not sent.is_set():
                sent.set()
                publish = edge.link.publish(subjects.work(Work.BATCH, V1), late)
                world.tasks.start(publish, name="late draft")

        await edge.link.subscribe(subjects.verifier_stat(V1), on_stat)
        draining = world.tasks.start(verifier.drain(), name="drain")
        answer = await session.hear()
        await draining

        assert sent.is_set()
        assert isinstance(answer, Verdict), "not cold: its session was still here"
        assert answer.round == 1


async def test_a_drained_verifier_lets_a_hosted_session_go_before_its_grant_ends() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1", step_ms=30.0)
        edge = await ScriptedEdge(world, "A").start()
        session = await ReadyToDraft.make(edge, PROMPT)
        answers = [await session.say({"run": 32})]

        await verifier.drain()
        answers += await session.rest(quiet_s=0.1)

        assert all(isinstance(answer, Verdict) for answer in answers), answers
        assert 2 <= len(answers) < 32
