"""Runs a comparison: which systems are up together, which column is measured when.

All systems that are compared are up at the same time, and take turns on a few prompts each, every
second time in reverse order: a machine that gets slower or faster meanwhile does so for all of
them. A shared machine may change its speed by half within minutes.
"""

import asyncio
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from operator import add
from pathlib import Path
from typing import Final

from benchmarks.bench_system import Cloud
from benchmarks.columns import (
    BUSY_S,
    Column,
    Kind,
    Observed,
    Prefill,
    Setting,
    figures_of,
    same_texts,
)
from benchmarks.compared_systems import ADAPTIVE, Asked, Systems
from benchmarks.figures import say
from benchmarks.observing import observe
from benchmarks.pinned import Cores
from benchmarks.plan import Measured, Plan, Results
from benchmarks.prompt_set import Prompt

SWEEP_TURNS: Final = 2
# Before each measurement, so that edges know the link's new length.
WARM_UP_TEXT: Final = "Tell me something about rivers."
WARM_UP_TOKENS: Final = 16
NO_PREFILL: Final = Prefill(0, 0.0)

Asking = Mapping[Column, Asked]


class Comparison:
    """One run of a plan. ``results`` grow while it runs."""

    def __init__(self, plan: Plan, systems: Systems) -> None:
        self.results = Results()
        self._plan = plan
        self._systems = systems
        self._num_told = 0

    async def run(self) -> Results:
        """Raises an ExceptionGroup of CommandFailed when a process cannot be kept up."""
        await self._sweep()
        for streams in self._plan.streams:
            await self._measure(streams)
        return self.results

    # ------------------------------------------------------------ sweeps

    async def _sweep(self) -> None:
        """Every setting of both systems that draft: SpecEdge's at the longest round trip, the
        verifier's own drafter's at the shortest."""
        plan = self._plan
        async with contextlib.AsyncExitStack() as stack:
            where = await stack.enter_async_context(self._systems.plain_cloud())
            asking: dict[Column, Asked] = {}
            for setting in plan.sweep:
                edges = self._systems.drafting(where, f"edge-{setting}", 1, setting, proactive=True)
                asked = await stack.enter_async_context(edges)
                beside = await stack.enter_async_context(self._systems.server_only(setting))
                for streams in plan.streams:
                    far, near = max(plan.delays_ms), min(plan.delays_ms)
                    asking[Column(Kind.SPECEDGE, streams, far, 1, True, setting)] = asked
                    asking[Column(Kind.SERVER_ONLY, streams, near, setting=setting)] = beside
            prompts = plan.prompts[: plan.sweep_prompts]
            seen = await self._in_turns(asking, prompts, plan.sweep_tokens, SWEEP_TURNS)
        for column, observed in seen.items():
            self.results.sweeps.append(Measured(column, figures_of(observed, NO_PREFILL)))

    def _best(self, kind: Kind, streams: int) -> Setting:
        """By tokens per second."""
        tried = [
            each
            for each in self.results.sweeps
            if each.column.kind is kind and each.column.streams == streams
        ]
        best = max(tried, key=lambda each: each.figures.tokens_per_s).column.setting or ADAPTIVE
        say(f"{kind}, streams at a time: {streams}, best at {best}")
        return best

    # ------------------------------------------------------------ columns

    async def _measure(self, streams: int) -> None:
        """Plain, server-only, and SpecEdge: proactive or not or adaptive, with one or two edges."""
        setting = self._best(Kind.SPECEDGE, streams)
        of_server = self._best(Kind.SERVER_ONLY, streams)
        systems, most = self._systems, min(2, streams)
        async with (
            systems.plain_cloud() as where,
            systems.server_only(of_server) as server_only,
            systems.hosted(where) as plain,
            systems.drafting(where, "proactive", most, setting, proactive=True) as proactive,
            systems.drafting(where, "waiting", most, setting, proactive=False) as waiting,
            systems.drafting(where, "adaptive-waiting", 1, ADAPTIVE, proactive=False) as patient,
            contextlib.AsyncExitStack() as stack,
        ):
            asking: dict[Column, Asked] = {}
            for ms in self._plan.delays_ms:
                asking[Column(Kind.PLAIN, streams, ms)] = plain
                asking[Column(Kind.SERVER_ONLY, streams, ms, setting=of_server)] = server_only
                for count in range(1, most + 1):
                    for is_proactive, edges in ((True, proactive), (False, waiting)):
                        column = Column(Kind.SPECEDGE, streams, ms, count, is_proactive, setting)
                        asking[column] = Asked(where, edges.edges[:count])
                # One for each link: what it learned of one is wrong of the other.
                adaptive = await stack.enter_async_context(
                    systems.drafting(where, f"adaptive-{ms:g}", 1, ADAPTIVE, proactive=True)
                )
                asking[Column(Kind.SPECEDGE, streams, ms, 1, True, ADAPTIVE)] = adaptive
            farthest = max(self._plan.delays_ms)
            asking[Column(Kind.SPECEDGE, streams, farthest, 1, False, ADAPTIVE)] = patient
            prefill = {
                is_server_only: await self._prefill(asked.where)
                for is_server_only, asked in ((True, server_only), (False, plain))
            }
            plan = self._plan
            seen = await self._in_turns(asking, plan.prompts, plan.max_tokens, plan.turns)
        self.results.columns += measured(seen, prefill)

    async def _in_turns(
        self, asking: Asking, prompts: Sequence[Prompt], max_tokens: int, turns: int
    ) -> dict[Column, Observed]:
        """All columns with the first share of the prompts, then all with the next, backwards."""
        parts: dict[Column, list[Observed]] = {column: [] for column in asking}
        for turn in range(turns):
            share = prompts[turn::turns]
            columns = list(asking) if turn % 2 == 0 else list(reversed(asking))
            for column in columns if share else ():
                seen = await self._observe(asking[column], column, share, max_tokens)
                self._tell(column, seen)
                parts[column].append(seen)
        return {column: functools.reduce(add, each) for column, each in parts.items()}

    async def _prefill(self, where: Cloud) -> Prefill:
        """What the prompts alone cost: the same ones, one token each, asked of an edge that no
        column asks, so that none finds them there."""
        column = Column(Kind.PLAIN, 1, 0.0)
        async with self._systems.hosted(where, "prefill") as asked:
            seen = await self._observe(asked, column, self._plan.prompts, 1)
        return Prefill(len(self._plan.prompts), seen.verifier.value(BUSY_S))

    async def _observe(
        self, asked: Asked, column: Column, prompts: Sequence[Prompt], max_tokens: int
    ) -> Observed:
        request = self._systems.request
        return await observe(
            asked.where,
            asked.edges,
            [request(prompt.text, max_tokens) for prompt in prompts],
            warm_up=request(WARM_UP_TEXT, WARM_UP_TOKENS),
            column=column,
        )

    def _tell(self, column: Column, seen: Observed) -> None:
        """One measurement more."""
        self._num_told += 1
        figures = figures_of(seen, NO_PREFILL)
        drafts = column.setting or "no drafts"
        say(
            f"  {self._num_told}/{self._num_measurements} {column.name}, {drafts}: "
            f"{figures.time_per_token_ms:.1f} ms a token"
        )

    @property
    def _num_measurements(self) -> int:
        plan = self._plan
        tries = min(SWEEP_TURNS, plan.sweep_prompts) * 2 * len(plan.sweep) * len(plan.streams)
        of_link = sum(3 + 2 * min(2, streams) for streams in plan.streams)
        columns = len(plan.delays_ms) * of_link + len(plan.streams)
        return tries + min(plan.turns, len(plan.prompts)) * columns


def measured(
    seen: Mapping[Column, Observed], prefill: Mapping[bool, Prefill]
) -> Iterator[Measured]:
    """Columns with their figures, and their texts held against those of the first plain one, which
    has none to be held against itself. ``prefill``: of server-only, and of the others."""
    reference = next(column for column in seen if column.kind is Kind.PLAIN)
    texts = seen[reference].timed
    for column, observed in seen.items():
        figures = figures_of(observed, prefill[column.kind is Kind.SERVER_ONLY])
        if column == reference:
            yield Measured(column, figures)
        else:
            same = same_texts(observed.timed, texts)
            yield Measured(column, figures, len(texts), same)


def run_comparison(plan: Plan, cores: Cores) -> Results:
    """Blocking; its processes are gone when it returns or raises. After a failure their logs stay,
    and where is said."""
    run_dir = Path(tempfile.mkdtemp(prefix="specedge-bench-"))
    try:
        results = asyncio.run(Comparison(plan, Systems(plan, cores, run_dir)).run())
    except BaseException:
        say(f"the logs are in {run_dir}")
        raise
    shutil.rmtree(run_dir)
    return results
