"""The systems that a comparison measures, as processes: who runs with which settings."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bench_system import Cloud, cloud
from benchmarks.columns import Setting
from benchmarks.observing import EDGE_DRAFTS, VERIFIER_DRAFTS, check_drafting
from benchmarks.pinned import Cores
from benchmarks.plan import Plan
from specedge.engine.loading import model_name

ADAPTIVE: Final = Setting()


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a column asks: edges, by their base URLs, and the cloud they are at."""

    where: Cloud
    edges: tuple[str, ...]


class Systems:
    """Starts them; each is ready when its context begins, and gone after it. Raises an
    ExceptionGroup of CommandFailed when a process cannot be kept up, or does not draft."""

    def __init__(self, plan: Plan, cores: Cores, run_dir: Path) -> None:
        self._plan = plan
        self._cores = cores
        self._run_dir = run_dir

    @contextlib.asynccontextmanager
    async def plain_cloud(self) -> AsyncIterator[Cloud]:
        """A verifier that drafts nothing, for plain decoding and for edges that draft."""
        async with cloud(self._folder("plain"), self._cores, self._verifier_flags()) as where:
            yield where

    @contextlib.asynccontextmanager
    async def hosted(self, where: Cloud, name: str = "hosted") -> AsyncIterator[Asked]:
        """An edge that drafts nothing: plain decoding."""
        async with where.edges(name, 1, self._hosted_flags()) as edges:
            yield Asked(where, tuple(edges))

    @contextlib.asynccontextmanager
    async def drafting(
        self, where: Cloud, name: str, count: int, setting: Setting, *, proactive: bool
    ) -> AsyncIterator[Asked]:
        """``count`` edges of SpecEdge."""
        flags = self._drafting_flags(setting, proactive=proactive)
        async with where.edges(name, count, flags) as edges:
            await check_drafting(EDGE_DRAFTS, edges)
            yield Asked(where, tuple(edges))

    @contextlib.asynccontextmanager
    async def server_only(self, setting: Setting) -> AsyncIterator[Asked]:
        """A verifier that drafts for an edge that does not."""
        flags = [*self._verifier_flags(), "--drafter", self._plan.drafter, *_size_flags(setting)]
        async with (
            cloud(self._folder(f"server-only-{setting}"), self._cores, flags) as where,
            self.hosted(where) as asked,
        ):
            await check_drafting(VERIFIER_DRAFTS, [where.verifier_url])
            yield asked

    def request(self, text: str, max_tokens: int) -> dict[str, Any]:
        """What clients ask of any of them."""
        return {
            "model": model_name(self._plan.model),
            "messages": [{"role": "user", "content": text}],
            "max_tokens": max_tokens,
            "temperature": self._plan.temperature,
            "seed": 1,
            "return_token_ids": True,
        }

    def _folder(self, name: str) -> Path:
        folder = self._run_dir / name
        folder.mkdir(exist_ok=True)
        return folder

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


def _size_flags(setting: Setting) -> Sequence[str]:
    if setting.is_controller:
        return []
    return ["--depth", str(setting.depth), "--budget", str(setting.budget)]
