"""Where a round's draft comes from, and what happens when a drafter is full."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from specedge.engine.emulated import EmulatedDrafter, EmulatedText, emulated_continuation
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.protocol.effects import Committed
from specedge.protocol.messages import Limits, Verdict
from specedge.service.compute import ComputeThread
from specedge.tree.calibration import Tally
from specedge.tree.path import find_path
from specedge.tree.token_tree import IntArray
from specedge_edge.drafting import DraftSource, Proposer

PROMPT: IntArray = np.array([5, 6, 7], dtype=np.int32)
STOP = StopRule(max_tokens=1000)
LIMITS = Limits(nodes=16, append=64, context=4096, grant=8)


@pytest.fixture
async def compute() -> AsyncIterator[ComputeThread]:
    thread = ComputeThread("test")
    yield thread
    await thread.close()


def source_of(compute: ComputeThread, drafter: EmulatedDrafter | None) -> DraftSource:
    return DraftSource(drafter, compute, DraftPolicy(depth=3, budget=32), 64, Tally())


def open_on(source: DraftSource, stop: StopRule = STOP) -> Proposer:
    return source.open(PROMPT, SamplingParams(), stop)


def truth(count: int) -> list[int]:
    """The target's next tokens after the prompt."""
    return emulated_continuation(PROMPT, StopRule(max_tokens=count))


def committed(tokens: list[int], *, was_tree: bool = True) -> Committed:
    verdict = Verdict(round=0, bonus=tokens[-1], kept=16, base=99, hash="0" * 16)
    return Committed(tuple(tokens), was_tree, verdict, 0.01)


async def test_a_draft_keeps_within_the_sessions_limit(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, EmulatedDrafter(EmulatedText(), agreement=(1.0,))))

    drafted = await proposer.propose(7, LIMITS)

    assert drafted.run == 0
    assert drafted.tree.num_drafted == LIMITS.nodes
    assert len(find_path(drafted.tree, truth(3))) == 3
    await proposer.close()


async def test_the_next_draft_stands_on_what_was_committed(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, EmulatedDrafter(EmulatedText(), agreement=(1.0,))))
    await proposer.propose(7, LIMITS)
    first = truth(4)
    proposer.on_committed(committed(first))

    drafted = await proposer.propose(first[-1], LIMITS)

    assert drafted.tree.token[0] == first[-1]
    assert len(find_path(drafted.tree, truth(7)[4:])) == 3
    await proposer.close()


async def test_a_full_drafter_leaves_rounds_empty_until_there_is_room(
    compute: ComputeThread,
) -> None:
    source = source_of(compute, EmulatedDrafter(EmulatedText(), agreement=(1.0,), max_sessions=1))
    first, second = open_on(source), open_on(source)
    await first.propose(7, LIMITS)

    tokens = truth(2)
    for token, root in zip(tokens, [7, *tokens], strict=False):
        drafted = await second.propose(root, LIMITS)
        assert (drafted.tree.num_drafted, drafted.tree.token[0]) == (0, root)
        second.on_committed(committed([token]))
    await first.close()
    drafted = await second.propose(tokens[-1], LIMITS)

    assert len(find_path(drafted.tree, truth(5)[2:])) == 3
    await second.close()


async def test_tokens_of_a_hosted_run_are_drafted_upon_too(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, EmulatedDrafter(EmulatedText(), agreement=(1.0,))))
    await proposer.propose(7, LIMITS)
    for token in truth(2):
        proposer.on_committed(committed([token], was_tree=False))

    drafted = await proposer.propose(truth(2)[-1], LIMITS)

    assert len(find_path(drafted.tree, truth(5)[2:])) == 3
    await proposer.close()


async def test_nothing_is_drafted_beyond_the_last_token(compute: ComputeThread) -> None:
    source = source_of(compute, EmulatedDrafter(EmulatedText(), agreement=(1.0,)))
    proposer = open_on(source, StopRule(max_tokens=2))

    drafted = await proposer.propose(7, LIMITS)

    assert int(drafted.tree.depth.max()) == 1  # the bonus is the second and last
    await proposer.close()


async def test_without_a_drafter_the_verifier_is_granted_what_it_offers(
    compute: ComputeThread,
) -> None:
    proposer = open_on(source_of(compute, None))

    granted = await proposer.propose(7, LIMITS)
    not_offered = await proposer.propose(7, LIMITS.model_copy(update={"grant": 0}))

    assert (granted.run, granted.tree.num_drafted) == (8, 0)
    assert (not_offered.run, not_offered.tree.num_drafted) == (0, 0)


async def test_closing_what_was_never_asked_computes_nothing(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, EmulatedDrafter(EmulatedText())))

    await proposer.close()
    await proposer.close()

    assert compute.pending == 0
