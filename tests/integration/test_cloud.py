"""The scheduler and verifiers together, over the in-process link, with emulated engines."""

import asyncio

import pytest

from specedge.errors import (
    Busy,
    ContextTooLong,
    FingerprintMismatch,
    InvalidRequest,
    LinkTimeout,
    RetryableError,
)
from specedge.ids import Epoch, VerifierId
from specedge.link.base import Message
from specedge.link.memory import WireProfile
from specedge.protocol import subjects
from specedge.protocol.codec import decode, encode
from specedge.protocol.messages import Cold, OpenRequest, Reason, Refused, Rejected, Verdict
from specedge.protocol.reports import Stat
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge_verifier.entry import SessionTimes
from tests.integration.cloud_world import (
    LIMITS,
    POISON,
    TEXT,
    Draw,
    ReadyToDraft,
    ScriptedEdge,
    cloud,
    edge_id,
    hosted,
    reference,
    truth,
)

PROMPT = [5, 6, 7, 8, 9]
OPEN = encode(
    OpenRequest(
        model=TEXT.identity().name, tokenizer=TEXT.identity().tokenizer_fingerprint, context=20
    )
)


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
        sessions = [
            edge.session(prompt, 60, truth(wrong_every=2))
            for edge, prompt in zip(edges, prompts, strict=True)
        ]

        await asyncio.gather(*(session.run() for session in sessions))

        for session, prompt in zip(sessions, prompts, strict=True):
            assert session.tokens == reference(prompt, 60)
        num_rounds = sum(len(session.verdicts) for session in sessions)
        shared = sum(sessions == 2 for _, _, sessions in verifier.engine.steps)
        assert shared >= num_rounds / 8, verifier.engine.steps


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
        patient = EdgeSessionConfig(min_wait_s=3.0)
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


async def test_without_a_verifier_an_open_request_is_refused_with_a_time_to_wait() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        edge = await ScriptedEdge(world, "A").start()

        ended = await edge.session(PROMPT, 10, truth()).run()

        assert isinstance(ended.error, RetryableError)
        assert ended.error.retry_ms


async def test_a_foreign_tokenizer_is_refused_with_both_fingerprints() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()

        ended = await edge.session(PROMPT, 10, truth(), tokenizer="abc123").run()

        assert isinstance(ended.error, FingerprintMismatch)
        assert ended.error.ours == "abc123"
        assert ended.error.theirs == TEXT.identity().tokenizer_fingerprint


async def test_an_unknown_model_and_a_context_too_long_are_refused() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()

        unknown = await edge.session(PROMPT, 10, truth(), model="gpt-9").run()
        too_long = await edge.session(PROMPT, 10_000, truth()).run()

        assert isinstance(unknown.error, InvalidRequest)
        assert unknown.error.field == "model"
        assert isinstance(too_long.error, ContextTooLong)
        assert str(LIMITS.context) in str(too_long.error)


async def test_nothing_is_said_to_a_foreign_inbox() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        thief = world.hub.link("thief", inbox_prefix=subjects.edge_inbox(edge_id("B")))

        with pytest.raises(LinkTimeout):
            await thief.request(subjects.up_open(edge.key()), OPEN, timeout_s=0.3)


BAD_DRAFTS: list[tuple[str, dict[str, object], str]] = [
    ("a token outside the vocabulary", {"token": [32_000], "parent": [-1]}, "token[0]"),
    ("a cyclic parent array", {"token": [1, 2], "parent": [1, 0]}, "parent"),
    ("a parent that is itself", {"token": [1], "parent": [0]}, "parent"),
    ("fewer parents than tokens", {"token": [1, 2], "parent": [-1]}, "parent"),
    ("more nodes than allowed", {"token": [1] * 33, "parent": [-1] * 33}, "token"),
    ("more appended than allowed", {"append": [1] * 65}, "append"),
    ("a negative base", {"base": -1}, "base"),
    ("a hash that is none", {"hash": "xyz"}, "hash"),
    ("a grant over the limit", {"run": 33}, "run"),
    ("another version", {"v": 2}, "v"),
]


@pytest.mark.parametrize(
    ("what", "change", "field"), BAD_DRAFTS, ids=[row[0] for row in BAD_DRAFTS]
)
async def test_a_bad_draft_is_rejected_by_field_and_disturbs_nobody(
    what: str, change: dict[str, object], field: str
) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        good, bad = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        session = good.session(PROMPT, 60, truth())
        running = world.tasks.start(session.run(), name="session")
        victim = await ReadyToDraft.make(bad, PROMPT)

        answer = await victim.say(change)

        assert isinstance(answer, Rejected), what
        assert answer.field == field or field in answer.message, answer
        await running
        assert session.tokens == reference(PROMPT, 60)
        # The session itself is none the worse.
        assert isinstance(await victim.say({}), Verdict)


async def test_a_wrong_base_or_hash_is_answered_cold() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        session = await ReadyToDraft.make(edge, PROMPT)

        wrong_hash = await session.say({"hash": "0" * 16})
        wrong_base = await session.say({"base": len(PROMPT) + 3})

        assert isinstance(wrong_hash, Cold)
        assert isinstance(wrong_base, Cold)
        assert isinstance(await session.say({}), Verdict)


async def test_malformed_bytes_are_rejected_and_the_next_draft_is_answered() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        session = await ReadyToDraft.make(edge, PROMPT)

        answers = [await session.say_bytes(junk) for junk in (b"", b"{", b"[]", b'{"round":1}')]

        assert all(isinstance(answer, Rejected) for answer in answers), answers
        assert isinstance(await session.say({}), Verdict)


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

        async with asyncio.timeout(5):
            await freed.wait()


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


@pytest.mark.parametrize("draw", [truth(), hosted(16)], ids=["drafted", "hosted"])
async def test_a_session_that_cannot_grow_in_place_starts_anew_where_it_fits(draw: Draw) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        # Its slot has 212 rows at first, and there is no room for twice as many.
        await world.start_verifier("v1", kv_tokens=400)
        edge = await ScriptedEdge(world, "A").start()
        prompt = list(range(1, 181))
        session = edge.session(prompt, 60, draw)

        async with asyncio.timeout(10):
            await session.run()

        assert session.tokens == reference(prompt, 60)


async def test_a_session_that_breaks_the_engine_breaks_no_other() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", step_ms=5.0)
        good, bad = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        session = good.session(PROMPT, 100, truth())
        running = world.tasks.start(session.run(), name="session")
        await session.committed_some.wait()

        poisoned = await ReadyToDraft.make(bad, [1, 2, POISON])
        answers = [await poisoned.say({}) for _ in range(10)]
        await running
        again = await good.session(PROMPT, 10, truth()).run()

        for answer in answers:
            assert isinstance(answer, Rejected)
            assert answer.rejected is Reason.BUSY
        assert session.tokens == reference(PROMPT, 100)
        assert again.reason == "length"


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
        await asyncio.sleep(0.6)  # longer than a verifier may be silent
        world.hub.restore()
        await running

        assert session.tokens == reference(PROMPT, 120)


async def test_a_verifier_told_to_stop_while_the_broker_is_away_stops() -> None:
    async with cloud() as world:
        verifier = await world.start_verifier("v1")
        world.hub.cut()

        async with asyncio.timeout(5):
            await verifier.drain()


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


@pytest.mark.parametrize(
    ("payload", "reason", "field"),
    [
        (b"{", Reason.INVALID, "body"),
        (b'{"v":1,"model":"big","context":5}', Reason.INVALID, "tokenizer"),
        (b'{"v":9,"model":"big","tokenizer":"aa","context":5}', Reason.VERSION, "v"),
    ],
)
async def test_a_malformed_open_request_is_refused_by_field(
    payload: bytes, reason: Reason, field: str
) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()

        reply = await edge.link.request(subjects.up_open(edge.key()), payload, timeout_s=2.0)

        refused = decode(Refused, reply)
        assert (refused.refused, refused.field) == (reason, field)


async def test_junk_on_any_subject_stops_neither_service() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        stranger = world.hub.link("stranger")

        for subject in ("se.ver.v1.stat", "se.ver.x", "se.up.nobody.draft", "se.work.v1.batch"):
            for junk in (b"", b"{}", b"\xff\x00"):
                await stranger.publish(subject, junk)
        session = edge.session(PROMPT, 20, truth())
        await session.run()

        assert session.tokens == reference(PROMPT, 20)
