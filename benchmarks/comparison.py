"""Runs a comparison: which systems are up when, which column is measured when, on which prompts.

A column's prompts are halved and the halves measured far apart, the second in reverse order of the
columns, so that a machine that gets slower or faster meanwhile does so for all of them.
"""

import asyncio
import contextlib
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from operator import add
from pathlib import Path
from typing import Any, Final

from benchmarks.asking import Timed
from benchmarks.bench_system import Cloud, cloud
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
from benchmarks.figures import say
from benchmarks.observing import EDGE_DRAFTS, VERIFIER_DRAFTS, check_drafting, observe
from benchmarks.pinned import Cores
from benchmarks.plan import Measured, Plan, Results
from benchmarks.prompt_set import Prompt
from specedge.engine.loading import model_name

HALVES: Final = 2
# Before each measurement, so that edges know the link's new length.
WARM_UP_TEXT: Final = "Tell me something about rivers."
WARM_UP_TOKENS: Final = 16
ADAPTIVE: Final = Setting()


class Comparison:
    """One run of a plan. ``results`` grow while it runs."""

    def __init__(self, plan: Plan, cores: Cores, run_dir: Path) -> None:
        self.results = Results()
        self._plan = plan
        self._cores = cores
        self._run_dir = run_dir
        self._plain_texts: dict[int, list[Timed]] = {}
        self._num_told = 0

    async def run(self) -> Results:
        """Raises an ExceptionGroup of CommandFailed when a process cannot be kept up."""
        async with cloud(self._run_dir, self._cores, self._verifier_flags()) as plain_cloud:
            best = await self._sweep_edges(plain_cloud)
            for streams in self._plan.streams:
                await self._measure_edges(plain_cloud, streams, best[streams])
        best = await self._sweep_server_only()
        for setting in dict.fromkeys(best.values()):
            streams_here = [streams for streams in best if best[streams] == setting]
            await self._measure_server_only(setting, streams_here)
        return self.results

    # ------------------------------------------------------------ sweeps

    async def _sweep_edges(self, where: Cloud) -> dict[int, Setting]:
        """The best setting of SpecEdge by number of streams, at the longest round trip."""
        for setting in self._plan.sweep:
            flags = self._drafting_flags(setting, proactive=True)
            async with where.edges("sweep", 1, flags) as edges:
                await check_drafting(EDGE_DRAFTS, edges)
                for streams in self._plan.streams:
                    column = Column(
                        Kind.SPECEDGE, streams, max(self._plan.delays_ms), 1, True, setting
                    )
                    await self._try(where, edges, column)
        return self._best(Kind.SPECEDGE)

    async def _sweep_server_only(self) -> dict[int, Setting]:
        """The best setting of the verifier's own drafter by number of streams, without a delay."""
        for setting in self._plan.sweep:
            async with self._server_only(setting) as (where, edges):
                for streams in self._plan.streams:
                    column = Column(
                        Kind.SERVER_ONLY, streams, min(self._plan.delays_ms), setting=setting
                    )
                    await self._try(where, edges, column)
        return self._best(Kind.SERVER_ONLY)

    async def _try(self, where: Cloud, edges: Sequence[str], column: Column) -> None:
        prompts = self._plan.prompts[: self._plan.sweep_prompts]
        seen = await self._observe(where, edges, column, prompts, self._plan.sweep_tokens)
        figures = figures_of(seen, Prefill(0, 0.0))
        self._tell(f"{column.name}, {column.setting}: {figures.tokens_per_s:.2f} tokens/s")
        self.results.sweeps.append(Measured(column, figures))

    def _best(self, kind: Kind) -> dict[int, Setting]:
        best: dict[int, Measured] = {}
        for tried in self.results.sweeps:
            streams = tried.column.streams
            if tried.column.kind is kind and (
                streams not in best
                or tried.figures.tokens_per_s > best[streams].figures.tokens_per_s
            ):
                best[streams] = tried
        settings = {streams: tried.column.setting or Setting() for streams, tried in best.items()}
        for streams, setting in settings.items():
            say(f"{kind}, streams at a time: {streams}, best at {setting}")
        return settings

    # ------------------------------------------------------------ columns

    async def _measure_edges(self, where: Cloud, streams: int, setting: Setting) -> None:
        """Plain and SpecEdge, proactive or not or adaptive, side by side in one system."""
        plan = self._plan
        most = min(2, streams)
        on = self._drafting_flags(setting, proactive=True)
        off = self._drafting_flags(setting, proactive=False)
        by_itself = self._drafting_flags(ADAPTIVE, proactive=True)
        by_itself_waiting = self._drafting_flags(ADAPTIVE, proactive=False)
        async with (
            where.edges("hosted", 1, self._hosted_flags()) as hosted,
            where.edges("proactive", most, on) as proactive,
            where.edges("waiting", most, off) as waiting,
            where.edges("adaptive", 1, by_itself) as adaptive,
            where.edges("adaptive-waiting", 1, by_itself_waiting) as adaptive_waiting,
        ):
            drafting = [*proactive, *waiting, *adaptive, *adaptive_waiting]
            await check_drafting(EDGE_DRAFTS, drafting)
            of_edges = {True: proactive, False: waiting}
            asked = {
                Column(Kind.PLAIN, streams, delay_ms): hosted for delay_ms in plan.delays_ms
            } | {
                Column(Kind.SPECEDGE, streams, delay_ms, count, is_proactive, setting): urls[:count]
                for count in range(1, most + 1)
                for delay_ms in plan.delays_ms
                for is_proactive, urls in of_edges.items()
            }
            asked |= {
                Column(Kind.SPECEDGE, streams, delay_ms, 1, True, ADAPTIVE): adaptive
                for delay_ms in plan.delays_ms
            }
            farthest = Column(Kind.SPECEDGE, streams, max(plan.delays_ms), 1, False, ADAPTIVE)
            asked[farthest] = adaptive_waiting
            prefill = await self._prefill(where, hosted)
            seen = await self._observe_all(where, asked)
        first = next(iter(asked))
        self._plain_texts[streams] = list(seen[first].timed)
        self._keep(seen, prefill)

    async def _measure_server_only(self, setting: Setting, streams_here: Sequence[int]) -> None:
        async with self._server_only(setting) as (where, edges):
            prefill = await self._prefill(where, edges)
            asked: dict[Column, Sequence[str]] = {
                Column(Kind.SERVER_ONLY, streams, delay_ms, setting=setting): edges
                for streams in streams_here
                for delay_ms in self._plan.delays_ms
            }
            self._keep(await self._observe_all(where, asked), prefill)

    def _keep(self, seen: Mapping[Column, Observed], prefill: Prefill) -> None:
        for column, observed in seen.items():
            plain = self._plain_texts[column.streams]
            same = same_texts(observed.timed, plain)
            figures = figures_of(observed, prefill)
            self.results.columns.append(Measured(column, figures, len(plain), same))

    async def _observe_all(
        self, where: Cloud, asked: Mapping[Column, Sequence[str]]
    ) -> dict[Column, Observed]:
        parts: dict[Column, list[Observed]] = {column: [] for column in asked}
        for half in range(HALVES):
            prompts = self._plan.prompts[half::HALVES]
            in_turn: Iterable[Column] = asked if half % 2 == 0 else reversed(list(asked))
            for column in in_turn if prompts else ():
                self._tell(f"{column.name}, {column.setting or 'no drafts'}")
                part = await self._observe(
                    where, asked[column], column, prompts, self._plan.max_tokens
                )
                parts[column].append(part)
        return {column: functools.reduce(add, each) for column, each in parts.items()}

    async def _prefill(self, where: Cloud, edges: Sequence[str]) -> Prefill:
        """What the prompts alone cost: the same ones, one token each."""
        column = Column(Kind.PLAIN, 1, 0.0)
        seen = await self._observe(where, edges, column, self._plan.prompts, 1)
        return Prefill(len(self._plan.prompts), seen.verifier.value(BUSY_S))

    async def _observe(
        self,
        where: Cloud,
        edges: Sequence[str],
        column: Column,
        prompts: Sequence[Prompt],
        max_tokens: int,
    ) -> Observed:
        return await observe(
            where,
            edges,
            [self._request(prompt.text, max_tokens) for prompt in prompts],
            warm_up=self._request(WARM_UP_TEXT, WARM_UP_TOKENS),
            column=column,
        )

    def _tell(self, text: str) -> None:
        """One measurement more."""
        self._num_told += 1
        say(f"  {self._num_told}/{self._num_measurements} {text}")

    @property
    def _num_measurements(self) -> int:
        plan = self._plan
        tries = 2 * len(plan.sweep)
        edge_groups = sum(1 + 2 * min(2, streams) for streams in plan.streams)
        columns = len(plan.delays_ms) * (2 * len(plan.streams) + edge_groups) + len(plan.streams)
        return len(plan.streams) * tries + HALVES * columns

    # ------------------------------------------------------------ what runs

    @contextlib.asynccontextmanager
    async def _server_only(self, setting: Setting) -> AsyncIterator[tuple[Cloud, list[str]]]:
        flags = [*self._verifier_flags(), "--drafter", self._plan.drafter, *_size_flags(setting)]
        async with (
            cloud(self._run_dir, self._cores, flags) as where,
            where.edges("hosted", 1, self._hosted_flags()) as edges,
        ):
            await check_drafting(VERIFIER_DRAFTS, [where.verifier_url])
            yield where, edges

    def _verifier_flags(self) -> list[str]:
        return ["--model", self._plan.model, *self._plan.verifier_flags]

    def _hosted_flags(self) -> list[str]:
        return ["--model", self._plan.model, "--drafter", "none"]

    def _drafting_flags(self, setting: Setting, *, proactive: bool) -> list[str]:
        return [
            *("--model", self._plan.model, "--drafter", self._plan.drafter),
            *("--threads", "1"),
            *_size_flags(setting),
            *("--adaptive", "true" if setting.is_controller else "false"),
            *("--proactive", "true" if proactive else "false"),
            *self._plan.edge_flags,
        ]

    def _request(self, text: str, max_tokens: int) -> dict[str, Any]:
        return {
            "model": model_name(self._plan.model),
            "messages": [{"role": "user", "content": text}],
            "max_tokens": max_tokens,
            "temperature": self._plan.temperature,
            "seed": 1,
            "return_token_ids": True,
        }


def run_comparison(plan: Plan, cores: Cores) -> Results:
    """Blocking; its processes are gone when it returns or raises. After a failure their logs stay,
    and where is said."""
    run_dir = Path(tempfile.mkdtemp(prefix="specedge-bench-"))
    try:
        results = asyncio.run(Comparison(plan, cores, run_dir).run())
    except BaseException:
        say(f"the logs are in {run_dir}")
        raise
    shutil.rmtree(run_dir)
    return results


def _size_flags(setting: Setting) -> list[str]:
    if setting.is_controller:
        return []
    return ["--depth", str(setting.depth), "--budget", str(setting.budget)]
