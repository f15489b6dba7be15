"""Where a round's draft comes from, and what happens when a drafter is full or fails."""

import asyncio
import threading

import numpy as np
import pytest

from specedge.clock import ManualClock
from specedge.engine.emulated import EmulatedDrafter, EmulatedText, emulated_continuation
from specedge.engine.ports import Drafter
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.protocol.effects import Committed, Drafted
from specedge.protocol.messages import Verdict
from specedge.protocol.opening import Limits
from specedge.service.compute import ComputeThread
from specedge.tree.path import find_path
from specedge.tree.token_tree import IntArray, TokenTree
from specedge_edge.drafting import DraftSource
from specedge_edge.pacing import RoundPacing
from specedge_edge.proposer import Proposer

PROMPT: IntArray = np.array([5, 6, 7], dtype=np.int32)
STOP = StopRule(max_tokens=1000)
LIMITS = Limits(nodes=16, append=64, context=4096, grant=8)
NO_GRANTS = LIMITS.model_copy(update={"grant": 0})


def right(**more: object) -> EmulatedDrafter:
    """A drafter that is always right."""
    return EmulatedDrafter(EmulatedText(), agreement=(1.0,), **more)  # type: ignore[arg-type]


def source_of(
    compute: ComputeThread, drafter: Drafter | None, *, is_proactive: bool = False
) -> DraftSource:
    policy = DraftPolicy(depth=3, budget=32)
    return DraftSource(drafter, compute, policy, 64, ManualClock(), is_proactive)


def open_on(source: DraftSource, stop: StopRule = STOP) -> Proposer:
    return source.open(PROMPT, SamplingParams(), stop)


async def propose(proposer: Proposer, root: int, limits: Limits = LIMITS) -> Drafted:
    proposer.begin(root, limits)
    return await proposer.drafted()


def truth(count: int) -> list[int]:
    """The target's next tokens after the prompt."""
    return emulated_continuation(PROMPT, StopRule(max_tokens=count))


def committed(tokens: list[int], *, was_tree: bool = True) -> Committed:
    verdict = Verdict(round=0, bonus=tokens[-1], kept=16, base=99, hash="0" * 16)
    return Committed(tuple(tokens), was_tree, verdict, 0.01 if was_tree else None)


async def test_a_draft_keeps_within_the_sessions_limit(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, right()))

    drafted = await propose(proposer, 7)

    assert drafted.run == 0
    assert drafted.tree.num_drafted == LIMITS.nodes
    assert len(find_path(drafted.tree, truth(3))) == 3
    await proposer.close()


async def test_the_next_draft_stands_on_what_was_committed(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, right()))
    await propose(proposer, 7)
    first = truth(4)
    proposer.on_committed(committed(first))

    drafted = await propose(proposer, first[-1])

    assert drafted.tree.token[0] == first[-1]
    assert len(find_path(drafted.tree, truth(7)[4:])) == 3
    await proposer.close()


async def test_a_full_drafter_leaves_rounds_to_the_verifier_until_there_is_room(
    compute: ComputeThread,
) -> None:
    source = source_of(compute, right(max_sessions=1))
    first, second = open_on(source), open_on(source)
    await propose(first, 7)

    tokens = truth(3)
    granted = await propose(second, 7)
    second.on_committed(committed([tokens[0]], was_tree=False))
    second.on_committed(committed([tokens[1]], was_tree=False))
    empty = await propose(second, tokens[1], NO_GRANTS)
    second.on_committed(committed([tokens[2]]))
    await first.close()
    drafted = await propose(second, tokens[2])

    assert (granted.run, granted.tree.num_drafted) == (8, 0)
    assert (empty.run, empty.tree.num_drafted) == (0, 0)
    assert len(find_path(drafted.tree, truth(6)[3:])) == 3
    assert (source.standing.num_refusals, source.standing.problem) == (2, None)
    await second.close()


async def test_tokens_of_a_hosted_run_are_drafted_upon_too(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, right()))
    await propose(proposer, 7)
    for token in truth(2):
        proposer.on_committed(committed([token], was_tree=False))

    drafted = await propose(proposer, truth(2)[-1])

    assert len(find_path(drafted.tree, truth(5)[2:])) == 3
    await proposer.close()


async def test_nothing_is_drafted_beyond_the_last_token(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, right()), StopRule(max_tokens=2))

    drafted = await propose(proposer, 7)

    assert int(drafted.tree.depth.max()) == 1  # the bonus is the second and last
    await proposer.close()


async def test_without_a_drafter_the_verifier_is_granted_what_it_offers(
    compute: ComputeThread,
) -> None:
    proposer = open_on(source_of(compute, None))

    granted = await propose(proposer, 7)
    not_offered = await propose(proposer, 7, NO_GRANTS)

    assert (granted.run, granted.tree.num_drafted) == (8, 0)
    assert (not_offered.run, not_offered.tree.num_drafted) == (0, 0)


async def test_closing_what_was_never_asked_computes_nothing(compute: ComputeThread) -> None:
    proposer = open_on(source_of(compute, EmulatedDrafter(EmulatedText())))

    await proposer.close()
    await proposer.close()

    assert compute.pending == 0


async def test_closing_while_a_round_is_drafted_gives_the_slot_back(compute: ComputeThread) -> None:
    go_on = threading.Event()
    source = source_of(compute, right(max_sessions=1, sleep=lambda _: go_on.wait() and None))
    first = open_on(source)
    first.begin(7, LIMITS)

    go_on.set()
    await first.close()

    second = open_on(source)
    assert (await propose(second, 7)).tree.num_drafted > 0
    await second.close()


async def test_a_slot_comes_back_from_a_full_thread_though_its_owner_is_cancelled_twice() -> None:
    go_on = threading.Event()
    compute = ComputeThread("test", max_pending=2)
    source = source_of(compute, right(max_sessions=1))
    proposer = open_on(source)
    await propose(proposer, 7)
    waiting = [asyncio.ensure_future(compute.run(go_on.wait)) for _ in range(2)]

    closing = asyncio.ensure_future(proposer.close())
    await asyncio.sleep(0)
    for _ in range(2):
        closing.cancel()
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*waiting)
    another = open_on(source)
    drafted = await propose(another, 7)

    assert closing.cancelled()
    assert drafted.run == 0, "there is room at the drafter"
    await another.close()
    await compute.close()


async def test_the_pacing_hears_of_a_tree_only_with_the_verdict_on_it(
    compute: ComputeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[bool] = []
    note = RoundPacing.observe

    def observe(
        self: RoundPacing, news: Committed, now_s: float, sent: TokenTree | None = None
    ) -> None:
        judged.append(sent is not None)
        note(self, news, now_s, sent)

    monkeypatch.setattr(RoundPacing, "observe", observe)
    policy = DraftPolicy(depth=3, budget=32)
    source = DraftSource(right(), compute, policy, 64, ManualClock(), is_paced=True)
    proposer = open_on(source)
    await propose(proposer, 7)
    first, *_ = truth(1)

    proposer.on_committed(committed([first], was_tree=False))  # of a grant that outran it
    await propose(proposer, first)
    proposer.on_committed(committed(truth(2)[1:]))

    assert judged == [False, True]
    await proposer.close()
