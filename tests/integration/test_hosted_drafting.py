"""Hosted sessions at verifiers with a drafter of their own, over the in-process link."""

import asyncio
import time

import pytest

from specedge.engine.emulated import EmulatedDrafter
from specedge.engine.failing_drafter import NAN, FailingDrafter, Fault
from specedge.ids import VerifierId
from specedge.link.base import Message
from specedge.link.memory import WireProfile
from specedge.params import DraftPolicy, SamplingParams
from specedge.profiles import DeviceProfile
from specedge.protocol import subjects
from specedge.protocol.codec import decode
from specedge.protocol.messages import DownMessage, Verdict
from specedge.protocol.reports import Stat, StepReport
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge_verifier.entry import SessionTimes
from specedge_verifier.hosted_drafting import HostedDrafter
from tests.integration.cloud_world import (
    TEXT,
    ReadyToDraft,
    ScriptedEdge,
    cloud,
    hosted,
    in_turns,
    reference,
    truth,
)

PROMPT = [5, 6, 7, 8, 9]
POLICY = DraftPolicy(depth=4, budget=12, beams=4, branch=3, floor=0.02)


def a_drafter(agreement: float = 0.8, *, max_sessions: int = 8) -> HostedDrafter:
    return HostedDrafter(
        EmulatedDrafter(TEXT, agreement=(agreement,), max_sessions=max_sessions), POLICY
    )


def a_failing_drafter(fault: Fault) -> tuple[FailingDrafter, HostedDrafter]:
    failing = FailingDrafter(EmulatedDrafter(TEXT), fault)
    return failing, HostedDrafter(failing, POLICY)


@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.8, "seed": 11}])
async def test_whatever_the_drafter_is_worth_the_tokens_are_the_references(
    agreement: float, params: dict[str, float]
) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1", drafter=a_drafter(agreement))
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 60, hosted(8), **params)

        ended = await session.run()

        assert ended.reason == "length"
        assert session.tokens == reference(PROMPT, 60, SamplingParams(**params))
        assert all(verdict.kept == 0 for verdict in session.verdicts)
        # Nothing is tried that is held to be hopeless.
        assert (verifier.count("specedge_hosted_draft_tokens_total") > 0) == (agreement > 0)
        if agreement == 1.0:  # five a round, but for the last ones of each grant
            assert len(session.verdicts) <= 30
            assert verifier.count("specedge_hosted_accepted_tokens_total") >= 30


@pytest.mark.parametrize("run", [1, 3, 11])
async def test_a_grant_is_never_exceeded(run: int) -> None:
    """Rounds of five tokens, but for the last; and nobody renews it."""
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", step_ms=3.0, drafter=a_drafter(1.0))
        edge = await ScriptedEdge(world, "A").start()
        session = await ReadyToDraft.make(edge, PROMPT)

        answers = [await session.say({"run": run})]
        while _num_tokens(answers) < run:
            answers.append(await session.hear())
        answers += await session.rest(quiet_s=0.2)

        assert _num_tokens(answers) == run


def _num_tokens(verdicts: list[DownMessage]) -> int:
    assert all(isinstance(verdict, Verdict) for verdict in verdicts), verdicts
    return sum(len(verdict.path) + 1 for verdict in verdicts if isinstance(verdict, Verdict))


async def test_a_grant_is_renewed_before_its_end() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", step_ms=3.0, drafter=a_drafter(1.0))
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 200, hosted(32))

        await session.run()

        assert session.tokens == reference(PROMPT, 200)
        assert max(len(verdict.path) for verdict in session.verdicts) == POLICY.depth
        # Without a pause for a renewal, which would end a grant in a round cut short.
        short = [verdict for verdict in session.verdicts[:-1] if len(verdict.path) < POLICY.depth]
        assert len(short) <= len(session.verdicts) / 4


async def test_hosted_sessions_of_several_edges_are_drafted_and_verified_in_one_step() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier("v1", step_ms=10.0, drafter=a_drafter(0.9))
        edges = [await ScriptedEdge(world, letter).start() for letter in "ABC"]
        prompts = [[number, 2, 3] for number in range(3)]
        sessions = [
            edge.session(prompt, 80, hosted(32))
            for edge, prompt in zip(edges, prompts, strict=True)
        ]

        await asyncio.gather(*(session.run() for session in sessions))

        for session, prompt in zip(sessions, prompts, strict=True):
            assert session.tokens == reference(prompt, 80)
        full = [rows for rows, _, sessions in verifier.engine.steps if sessions == 3]
        assert len(full) >= 10
        assert max(full) > 3 + POLICY.budget, "drafts of more than one of them"


async def test_switching_between_drafts_and_grants_keeps_the_tokens() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", step_ms=2.0, drafter=a_drafter(0.7))
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 150, in_turns(hosted(6), truth(), truth(), hosted(3)))

        ended = await session.run()

        assert ended.reason == "length"
        assert session.tokens == reference(PROMPT, 150)
        assert any(verdict.own for verdict in session.verdicts)
        assert any(verdict.kept for verdict in session.verdicts)


async def test_log_probabilities_follow_the_path_of_a_hosted_round() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", drafter=a_drafter(0.9))
        edge = await ScriptedEdge(world, "A").start()
        session = edge.session(PROMPT, 30, hosted(16), logprobs=2)

        await session.run()

        for verdict in session.verdicts:
            assert verdict.lp is not None
            assert len(verdict.lp) == len(verdict.path) + 1


async def test_bad_wires_and_a_dead_verifier_cost_no_token() -> None:
    bad = WireProfile(latency_s=0.001, jitter_s=0.002, loss=0.03, duplication=0.05, reordering=0.05)
    async with cloud(bad) as world:
        await world.start_scheduler()
        verifiers = [
            await world.start_verifier(name, step_ms=2.0, drafter=a_drafter(0.8))
            for name in ("v1", "v2")
        ]
        edges = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        patient = EdgeSessionConfig(open_s=10.0, open_timeout_s=0.3, min_wait_s=0.1)
        sessions = [
            edge.session([number, 1, 2], 120, draw, config=patient)
            for number, edge in enumerate(edges)
            for draw in (hosted(16), in_turns(hosted(8), truth()))
        ]
        running = [world.tasks.start(session.run(), name="session") for session in sessions]
        await sessions[0].committed_some.wait()

        await verifiers[0].kill()
        await asyncio.gather(*running)

        for session in sessions:
            prompt = session.machine.committed[:3].tolist()
            assert session.tokens == reference(prompt, 120)


@pytest.mark.parametrize("fault", [ArithmeticError("broke"), NAN])
async def test_a_drafter_that_fails_costs_speed_and_is_given_up(fault: Exception | str) -> None:
    async with cloud() as world:
        await world.start_scheduler()
        failing, drafter = a_failing_drafter(lambda _: fault)
        verifier = await world.start_verifier("v1", drafter=drafter)
        edge = await ScriptedEdge(world, "A").start()
        assert verifier.count("specedge_hosted_drafter_works") == 1

        for number in range(5):
            session = edge.session([number, *PROMPT], 20, hosted(8))
            await session.run()
            assert session.tokens == reference([number, *PROMPT], 20)

        assert verifier.count("specedge_hosted_draft_failures_total") == 3
        assert verifier.count("specedge_hosted_drafter_works") == 0
        assert failing.num_passes == 3, "once for each of three sessions, then no more"
        assert failing.num_open == 0


async def test_a_session_whose_draft_failed_goes_on_plainly_and_others_draft_on() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        failing, drafter = a_failing_drafter(
            lambda number: ArithmeticError("broke") if number == 10 else None
        )
        verifier = await world.start_verifier("v1", drafter=drafter)
        edge = await ScriptedEdge(world, "A").start()
        first, second = (edge.session([number], 40, hosted(8)) for number in (1, 2))

        await first.run()
        await second.run()
        await verifier.drain()

        assert (first.tokens, second.tokens) == (reference([1], 40), reference([2], 40))
        assert 1 <= sum(verdict.own > 0 for verdict in first.verdicts) <= 9
        assert sum(verdict.own > 0 for verdict in second.verdicts) > 5
        assert verifier.count("specedge_hosted_drafter_works") == 1
        assert failing.num_open == 0


async def test_a_drafter_that_fails_now_and_then_is_never_given_up() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        fails = False
        _, drafter = a_failing_drafter(lambda _: ArithmeticError("broke") if fails else None)
        verifier = await world.start_verifier("v1", drafter=drafter)
        edge = await ScriptedEdge(world, "A").start()
        drafted = []

        for number in range(10):
            fails = number % 2 == 0
            session = edge.session([number, *PROMPT], 20, hosted(8))
            await session.run()
            drafted.append(any(verdict.own for verdict in session.verdicts))

        assert drafted == [False, True] * 5
        assert verifier.count("specedge_hosted_draft_failures_total") == 5
        assert verifier.count("specedge_hosted_drafter_works") == 1


async def test_without_room_at_the_drafter_a_session_goes_plainly_and_seats_are_given_back() -> (
    None
):
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("v1", step_ms=1.0, drafter=a_drafter(1.0, max_sessions=1))
        edges = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        both = [edge.session(PROMPT, 60, hosted(16)) for edge in edges]

        await asyncio.gather(*(session.run() for session in both))
        after = edges[0].session(PROMPT, 20, hosted(16))
        await after.run()

        assert [session.tokens for session in both] == [reference(PROMPT, 60)] * 2
        assert len(after.verdicts) < 20, "the seat was free again"


async def test_a_parked_session_leaves_its_seat_to_another() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier(
            "v1",
            kv_tokens=600,  # not enough for both, once the second has grown
            times=SessionTimes(park_s=0.0),
            drafter=a_drafter(1.0, max_sessions=1),
        )
        idle, busy = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        first = await ReadyToDraft.make(idle, list(range(1, 181)))
        answer = await first.say({"run": 4})
        session = busy.session(list(range(2, 182)), 120, hosted(16))

        await session.run()

        assert isinstance(answer, Verdict)
        assert len(answer.path) == 3, "the whole grant in one round"
        assert session.tokens == reference(list(range(2, 182)), 120)
        assert session.verdicts[0].own == 0, "there was no room at the drafter yet"
        assert len(session.verdicts) < 100


async def test_reports_tell_drafting_from_verifying_and_busy_time_holds_both() -> None:
    async with cloud() as world:
        await world.start_scheduler()
        profile = DeviceProfile("test", "made up", draft_pass_ms=2.0)
        slow = EmulatedDrafter(TEXT, profile=profile, sleep=time.sleep)
        drafter = HostedDrafter(slow, POLICY)
        verifier = await world.start_verifier("v1", step_ms=4.0, drafter=drafter)
        edge = await ScriptedEdge(world, "A").start()
        stats: list[Stat] = []
        await edge.link.subscribe(
            subjects.verifier_stat(VerifierId("v1")),
            lambda message: stats.append(_read(message)),
        )

        session = edge.session(PROMPT, 40, hosted(16))
        await session.run()
        await verifier.drain()

        steps: dict[int, StepReport] = {step.seq: step for stat in stats for step in stat.steps}
        own = [step for step in steps.values() if step.draft_ms > 0]
        assert len(own) >= 5
        assert all(step.draft_ms >= 2.0 and step.hosted > 1 for step in own)
        busy_s = stats[-1].busy_s
        assert busy_s >= sum(step.ms + step.draft_ms for step in steps.values()) / 1e3 * 0.99
        assert verifier.count("specedge_verifier_busy_seconds_total") == pytest.approx(
            busy_s, abs=1e-3
        )
        assert verifier.count("specedge_hosted_draft_seconds_sum") <= busy_s
        assert all(verdict.timing.draft >= 2.0 for verdict in session.verdicts if verdict.own)


def _read(message: Message) -> Stat:
    return decode(Stat, message.payload)
