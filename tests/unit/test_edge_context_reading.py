"""A context that an edge's drafter has to read before it drafts: piece by piece, beside others."""

import asyncio
import math
import threading

import numpy as np

from specedge.clock import ManualClock
from specedge.drafting.reading import PIECE_TOKENS
from specedge.engine.emulated import EmulatedDrafter, EmulatedDraftSession, emulated_continuation
from specedge.engine.ports import Expansion
from specedge.params import SamplingParams, StopRule
from specedge.protocol.effects import Committed
from specedge.service.compute import ComputeThread
from specedge.tree.path import find_path
from specedge.tree.token_tree import IntArray, TokenTree
from specedge_edge.context_reading import READING_GRANT_TOKENS
from specedge_edge.drafting import DraftSource
from specedge_edge.proposer import Proposer
from tests.unit.drafting_session import LIMITS, POLICY, STOP, verdict
from tests.unit.reading_drafter import ReadingDrafter

LONG: IntArray = np.arange(2 * PIECE_TOKENS + 88, dtype=np.int32) % 90
SHORT = LONG[:PIECE_TOKENS]


def opened(
    compute: ComputeThread, drafter: EmulatedDrafter, prompt: IntArray, patience_s: float
) -> tuple[DraftSource, Proposer]:
    source = DraftSource(drafter, compute, POLICY, 64, ManualClock(), read_patience_s=patience_s)
    return source, source.open(prompt, SamplingParams(), STOP)


async def until_idle(compute: ComputeThread) -> None:
    """Long enough for whoever asks the thread for one call after the other, a few times."""
    for _ in range(12):
        await compute.run(int)


async def test_a_first_round_waits_a_moment_for_a_long_prompt(compute: ComputeThread) -> None:
    drafter = ReadingDrafter()
    _, proposer = opened(compute, drafter, LONG, 60.0)

    proposer.begin(int(LONG[-1]), LIMITS)
    drafted = await proposer.drafted()

    assert (drafter.read, drafter.passed) == ([PIECE_TOKENS] * 2, [88])
    truth = emulated_continuation(LONG, StopRule(max_tokens=POLICY.depth))
    assert len(find_path(drafted.tree, truth)) == POLICY.depth
    await proposer.close()


async def test_a_short_prompt_is_read_by_its_first_pass(compute: ComputeThread) -> None:
    drafter = ReadingDrafter()
    _, proposer = opened(compute, drafter, SHORT, 60.0)

    proposer.begin(int(SHORT[-1]), LIMITS)
    await proposer.drafted()

    assert (drafter.read, drafter.passed) == ([], [PIECE_TOKENS])
    await proposer.close()


async def test_calls_of_other_sessions_pass_between_two_pieces(compute: ComputeThread) -> None:
    loop, order = asyncio.get_running_loop(), list[str]()
    others: list[asyncio.Future[None]] = []

    def on_read() -> None:
        order.append("piece")
        loop.call_soon_threadsafe(lambda: others.append(compute.start(order.append, "other")))

    _, proposer = opened(compute, ReadingDrafter(on_read), LONG, 60.0)
    proposer.begin(int(LONG[-1]), LIMITS)
    await proposer.drafted()

    assert order == ["piece", "other", "piece", "other"]
    await proposer.close()


async def test_while_its_drafter_reads_a_session_is_hosted_and_loses_no_token(
    compute: ComputeThread,
) -> None:
    may_read = threading.Event()
    drafter = ReadingDrafter(on_read=may_read.wait)
    _, proposer = opened(compute, drafter, LONG, 0.0)
    truth = emulated_continuation(LONG, StopRule(max_tokens=20))

    proposer.begin(int(LONG[-1]), LIMITS)
    granted = await proposer.drafted()
    proposer.on_sent()
    for token in truth[:4]:  # a few come while a piece is read, the others behind it
        proposer.on_committed(Committed((token,), False, verdict([token], 0), None))
    may_read.set()
    await until_idle(compute)
    for token in truth[4:6]:
        proposer.on_committed(Committed((token,), False, verdict([token], 0), None))
    proposer.begin(truth[5], LIMITS)
    drafted = await proposer.drafted()

    assert (granted.run, granted.tree.num_drafted) == (READING_GRANT_TOKENS, 0)
    assert drafter.passed == [88 + 6]
    assert len(find_path(drafted.tree, truth[6:])) == POLICY.depth
    await proposer.close()


async def test_a_session_that_ends_while_its_drafter_reads_gives_its_place_back(
    compute: ComputeThread,
) -> None:
    reads, may_read = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def on_read() -> None:
        loop.call_soon_threadsafe(reads.set)
        may_read.wait()

    drafter = ReadingDrafter(on_read)
    _, proposer = opened(compute, drafter, LONG, math.inf)
    proposer.begin(int(LONG[-1]), LIMITS)
    drafting = asyncio.ensure_future(proposer.drafted())
    await reads.wait()
    drafting.cancel()
    may_read.set()
    await proposer.close()

    assert len(drafter.read) == 1, "the second piece was not begun"
    assert [drafter.open(SHORT, SamplingParams()) for _ in range(8)], "all places are free"


async def test_what_fails_in_reading_is_the_drafters_failure_and_the_next_one_begins_anew(
    compute: ComputeThread,
) -> None:
    faults = [MemoryError("the device is full")]

    def on_read() -> None:
        if faults:
            raise faults.pop()

    drafter = ReadingDrafter(on_read)
    source, proposer = opened(compute, drafter, LONG, 60.0)

    proposer.begin(int(LONG[-1]), LIMITS)
    granted = await proposer.drafted()
    assert granted.run > 0
    assert source.standing.num_failures == 1
    source.clock.advance(60.0)  # type: ignore[attr-defined]
    proposer.begin(int(LONG[-1]), LIMITS)
    drafted = await proposer.drafted()

    assert drafted.tree.num_drafted > 0
    assert drafter.read == [PIECE_TOKENS] * 3
    await proposer.close()


class ShortSighted(EmulatedDrafter):
    """Whose positions end before any root."""

    def open(self, committed: IntArray, params: SamplingParams) -> EmulatedDraftSession:
        return _AtItsEnd(self, committed, params)


class _AtItsEnd(EmulatedDraftSession):
    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        seen = super().expand(tree, nodes)
        nothing = np.full_like(seen.token, -1), np.full_like(seen.logprob, -np.inf)
        return Expansion(*nothing, is_beyond=True)


async def test_beyond_the_drafters_positions_the_verifier_goes_on_alone(
    compute: ComputeThread,
) -> None:
    source, proposer = opened(compute, ShortSighted(), SHORT, 60.0)

    proposer.begin(int(SHORT[-1]), LIMITS)
    granted = await proposer.drafted()
    proposer.on_sent()

    assert granted.run > 0
    assert source.standing.problem is None
    assert source.pass_time.seconds == 0.0, "nothing was learned of passes that were none"
    await proposer.close()
