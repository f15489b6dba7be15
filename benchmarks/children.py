"""Services as a benchmark's child processes: started together, ready, kept, and gone afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from specedge.cli.child import Child
from specedge.cli.failure import CommandFailed
from specedge.cli.stack import LOOPBACK, ProcessPlan
from specedge.cli.supervisor import describe_exit, last_words
from specedge.cli.waiting import until_ready, watch_readiness
from specedge.service.runtime import Tasks

COMMON_FLAGS: Final = ("--http-port", "0", "--http-host", LOOPBACK, "--log-format", "json")
READY_WITHIN_S: Final = 300.0
GRACE_S: Final = 8.0


@contextlib.asynccontextmanager
async def running(plans: Sequence[ProcessPlan], run_dir: Path) -> AsyncIterator[list[Child]]:
    """Children that are ready. Raises an ExceptionGroup of CommandFailed if one does not start, or
    ends before its time: that ends the measurement."""
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


def url_of(child: Child) -> str:
    """A ready child's base URL, without a path."""
    assert child.http_url is not None, "a ready child has said where it listens"
    return child.http_url
