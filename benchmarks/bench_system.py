"""The system that ``compare`` measures: processes that each compute where they were put, and a link
between edges and cloud that is as long as asked for.

    edges ── proxy ── nats-server ── scheduler, verifier

The verifier computes on one core, with one thread, edges on another. What neither drafts nor
verifies is put on no core: where it is needed, a place is free, and a deployment has cores for it.
"""

import asyncio
import asyncio.subprocess
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.children import COMMON_FLAGS, running, url_of
from benchmarks.pinned import ANY, Cores
from specedge.cli.stack import EDGE_MODULE, LOOPBACK, SCHEDULER_MODULE, VERIFIER_MODULE, ProcessPlan
from specedge.link.broker import Broker

PINNED: Final = "benchmarks.pinned"
PROXY: Final = "benchmarks.delay_proxy"


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
        async with running(plans, self.run_dir) as children:
            yield [url_of(child) for child in children]


@contextlib.asynccontextmanager
async def cloud(run_dir: Path, cores: Cores, verifier_flags: Sequence[str]) -> AsyncIterator[Cloud]:
    """A broker, a scheduler, a verifier and the link to them; gone afterwards.

    Raises an ExceptionGroup of CommandFailed when a process does not start, or ends.
    """
    async with Broker(store_dir=run_dir / "broker") as broker, _link(broker.port) as link:
        flags = ["--threads", "1", *verifier_flags]
        plans = [
            _plan("scheduler", ANY, SCHEDULER_MODULE, broker.url, []),
            _plan("verifier-1", cores.verifier, VERIFIER_MODULE, broker.url, flags),
        ]
        async with running(plans, run_dir) as (_, verifier):
            yield Cloud(link, url_of(verifier), cores, run_dir)


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


def _plan(name: str, core: str, module: str, nats_url: str, flags: Sequence[str]) -> ProcessPlan:
    return ProcessPlan(name, PINNED, (core, module, "--nats-url", nats_url, *COMMON_FLAGS, *flags))
