"""Scheduler and verifiers over the in-process link: what is refused, and disturbs nobody."""

import pytest

from specedge.errors import (
    ContextTooLong,
    FingerprintMismatch,
    InvalidRequest,
    LinkTimeout,
    RetryableError,
)
from specedge.protocol import subjects
from specedge.protocol.codec import decode, encode
from specedge.protocol.messages import Cold, Rejected, Verdict
from specedge.protocol.opening import OpenRequest, Reason, Refused
from tests.integration.cloud_world import (
    LIMITS,
    POISON,
    PROMPT,
    TEXT,
    ReadyToDraft,
    ScriptedEdge,
    cloud,
    edge_id,
    reference,
    truth,
)

# ---------------------------------------------------------------- openings


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

        reply = await edge.link.request(subjects.up_open(edge.key()), payload, timeout_s=30.0)

        refused = decode(Refused, reply)
        assert (refused.refused, refused.field) == (reason, field)


OPEN = encode(
    OpenRequest(
        model=TEXT.identity().name, tokenizer=TEXT.identity().tokenizer_fingerprint, context=20
    )
)


async def test_nothing_is_said_to_a_foreign_inbox() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        edge = await ScriptedEdge(world, "A").start()
        thief = world.hub.link("thief", inbox_prefix=subjects.edge_inbox(edge_id("B")))

        with pytest.raises(LinkTimeout):
            await thief.request(subjects.up_open(edge.key()), OPEN, timeout_s=0.3)


# ---------------------------------------------------------------- drafts and junk


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


async def test_a_poisoned_session_alone_at_a_verifier_is_refused_and_the_verifier_lives() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1")
        good, bad = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        poisoned = await ReadyToDraft.make(bad, [1, 2, POISON])

        answers = [await poisoned.say({}) for _ in range(20)]
        ended = await good.session(PROMPT, 10, truth()).run()

        reasons = [answer.rejected for answer in answers if isinstance(answer, Rejected)]
        assert reasons == [Reason.BUSY] * 20
        assert world.verifiers["v1"].count("specedge_steps_failed_total") >= 20
        assert ended.reason == "length"


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
