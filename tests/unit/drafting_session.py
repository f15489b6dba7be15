"""A session whose drafts are a proposer's and whose verdicts are the target's own."""

import asyncio

import numpy as np

from specedge.clock import ManualClock
from specedge.engine.emulated import EmulatedDrafter, emulated_continuation
from specedge.engine.ports import Drafter
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.profiles import DeviceProfile
from specedge.protocol.effects import Committed, Drafted
from specedge.protocol.messages import Timing, Verdict
from specedge.protocol.opening import Limits
from specedge.service.compute import ComputeThread
from specedge.tree.path import find_path
from specedge.tree.token_tree import IntArray, TokenTree
from specedge_edge.drafting import DraftSource
from specedge_edge.proposer import Proposer

PROMPT: IntArray = np.array([5, 6, 7], dtype=np.int32)
STOP = StopRule(max_tokens=1000)
LIMITS = Limits(nodes=16, append=64, context=4096, grant=8)
POLICY = DraftPolicy(depth=3, budget=16, beams=4, branch=4)
PASS_S = 0.010


class Session:
    """A proposer whose verdicts are the target's own; a pass takes ``PASS_S`` by its clock."""

    def __init__(
        self,
        compute: ComputeThread,
        drafter: Drafter | None = None,
        *,
        clock: ManualClock | None = None,
        is_proactive: bool = True,
    ) -> None:
        self.compute = compute
        self.clock = clock or ManualClock()
        self.source = DraftSource(
            drafter or emulated(self.clock), compute, POLICY, 64, self.clock, is_proactive
        )
        self.proposer: Proposer = self.source.open(PROMPT, SamplingParams(), STOP)
        self.tokens: list[int] = []

    @property
    def truth(self) -> list[int]:
        """The target's next tokens."""
        stop = StopRule(max_tokens=len(self.tokens) + 8)
        return emulated_continuation(PROMPT, stop)[len(self.tokens) :]

    async def draft(self) -> Drafted:
        self.proposer.begin([*PROMPT.tolist(), *self.tokens][-1], LIMITS)
        drafted = await self.proposer.drafted()
        self.proposer.on_sent()
        return drafted

    async def idle(self) -> None:
        """Until the thread has drafted ahead all that it wants to: idle works take turns, so one
        that sees no pass between two of its own turns is alone."""
        alone = asyncio.Event()
        loop, seen = asyncio.get_running_loop(), [-1]

        def watch() -> bool:
            now = self.proposer.figures.counts.passes_ahead
            if now == seen[0]:
                loop.call_soon_threadsafe(alone.set)
                return False
            seen[0] = now
            return True

        self.compute.start_idle(watch)
        await alone.wait()

    def answer(self, tree: TokenTree, *, bonus: int | None = None, after_s: float = 0.1) -> None:
        """The target's verdict on ``tree``; with another ``bonus`` than its own to make a miss."""
        path = find_path(tree, self.truth)
        tokens = [*tree.token[path].tolist(), self.truth[len(path)] if bonus is None else bonus]
        self.tokens += tokens
        self.proposer.on_committed(
            Committed(tuple(tokens), True, verdict(tokens, tree.num_drafted), after_s)
        )

    def grant(self, count: int) -> None:
        """So many tokens of a hosted run."""
        for token in self.truth[:count]:
            self.tokens.append(token)
            self.proposer.on_committed(Committed((token,), False, verdict([token], 0), None))


def verdict(tokens: list[int], kept: int) -> Verdict:
    timing = Timing(held=1.0, queue=2.0, step=20.0)
    return Verdict(round=0, bonus=tokens[-1], kept=kept, base=99, hash="0" * 16, timing=timing)


def emulated(clock: ManualClock) -> EmulatedDrafter:
    profile = DeviceProfile("test", "made up", draft_pass_ms=PASS_S * 1e3)
    return EmulatedDrafter(agreement=(1.0,), profile=profile, sleep=clock.advance)
