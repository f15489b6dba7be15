"""The system that ``compare`` measures: processes that each compute where they were put, and a link
between edges and cloud that is as long as asked for.

    edges ── proxy ── nats-server ── scheduler, verifier

The verifier has one core for itself, with one compute thread; everything else shares another.
"""

import asyncio
import asyncio.subprocess
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.pinned import Cores
from specedge.cli.child import Child
from specedge.cli.failure import CommandFailed
from specedge.cli.stack import EDGE_MODULE, LOOPBACK, SCHEDULER_MODULE, VERIFIER_MODULE, ProcessPlan
from specedge.cli.supervisor import describe_exit, last_words
from specedge.cli.waiting import until_ready, watch_readiness
from specedge.link.broker import Broker
from specedge.service.runtime import Tasks

PINNED: Final = "benchmarks.pinned"
PROXY: Final = "benchmarks.delay_proxy"
READY_WITHIN_S: Final = 300.0
GRACE_S: Final = 8.0
COMMON_FLAGS: Final = ("--http-port", "0", "--http-host", LOOPBACK, "--log-format", "json")


class Link:
    """The proxy's process: all edges' connections go through it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.url = f"nats://{LOOPBACK}:{port}"

    async def set_round_trip(self, ms: float) -> None:
        """Returns when it holds."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{ms:g}\n".encode())
        await stdin.drain()
        await stdout.readline()


@dataclass(frozen=True, slots=True)
class Cloud:
    """What edges are started against. ``verifier_url`` has no path."""

    link: Link
    verifier_url: str
    cores: Cores
    run_dir: Path

    @contextlib.asynccontextmanager
    async def edges(self, name: str, count: int, flags: Sequence[str]) -> AsyncIterator[list[str]]:
        """The base URLs, without a path, of ready edges with the same settings; gone afterwards."""
        names = [f"{name}-{number}" for number in range(1, count + 1)]
        plans = [
            _plan(
                each,
                self.cores.others,
                EDGE_MODULE,
                self.link.url,
                ["--identity-file", str(self.run_dir / f"{each}.nk"), *flags],
            )
            for each in names
        ]
        async with _running(plans, self.run_dir) as children:
            yield [_url(child) for child in children]


@contextlib.asynccontextmanager
async def cloud(run_dir: Path, cores: Cores, verifier_flags: Sequence[str]) -> AsyncIterator[Cloud]:
    """A broker, a scheduler, a verifier and the link to them; gone afterwards.

    Raises an ExceptionGroup of CommandFailed when a process does not start, or ends.
    """
    async with Broker(store_dir=run_dir / "broker") as broker, _link(broker.port) as link:
        flags = ["--threads", "1", *verifier_flags]
        plans = [
            _plan("scheduler", cores.others, SCHEDULER_MODULE, broker.url, []),
            _plan("verifier-1", cores.verifier, VERIFIER_MODULE, broker.url, flags),
        ]
        async with _running(plans, run_dir) as (_, verifier):
            yield Cloud(link, _url(verifier), cores, run_dir)


@contextlib.asynccontextmanager
async def _link(port: int) -> AsyncIterator[Link]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", PROXY, LOOPBACK, str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Link(process, int(await process.stdout.readline()))
    finally:
        process.stdin.close()  # which ends it
        await process.wait()


@contextlib.asynccontextmanager
async def _running(plans: Sequence[ProcessPlan], run_dir: Path) -> AsyncIterator[list[Child]]:
    """Children that are ready. That one ends before its time ends the measurement."""
    children = [Child(plan, run_dir=run_dir) for plan in plans]
    ending = asyncio.Event()

    async def keep(child: Child) -> None:
        code = await child.run_once()
        if not ending.is_set():
            raise CommandFailed(f"{child.name} {describe_exit(code)}", hint=last_words(child))

    async with Tasks() as tasks:
        for child in children:
            tasks.start(keep(child), name=child.name)
            tasks.start(watch_readiness(child, lambda *_: None), name=f"watch {child.name}")
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await until_ready(children)
            yield children
        finally:
            ending.set()
            await asyncio.gather(*(child.stop(GRACE_S) for child in children))


def _url(child: Child) -> str:
    assert child.http_url is not None, "a ready child has said where it listens"
    return child.http_url


def _plan(name: str, core: str, module: str, nats_url: str, flags: Sequence[str]) -> ProcessPlan:
    return ProcessPlan(name, PINNED, (core, module, "--nats-url", nats_url, *COMMON_FLAGS, *flags))
