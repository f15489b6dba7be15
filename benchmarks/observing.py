"""One measurement of one column: the clients' streams, and what the services counted meanwhile."""

import asyncio
import functools
import os
from collections.abc import Sequence
from operator import add
from typing import Any, Final

from benchmarks.asking import stream_all
from benchmarks.bench_system import Cloud
from benchmarks.columns import Column, Observed
from benchmarks.scrape import Reading, read
from specedge.cli.failure import CommandFailed

# Gauges: 1 while a service drafts.
EDGE_DRAFTS: Final = "specedge_drafter_serves"
VERIFIER_DRAFTS: Final = "specedge_hosted_drafter_works"
# The last step's figures follow its verdicts by this much at most.
SETTLE_S: Final = 0.3


async def observe(
    where: Cloud,
    edges: Sequence[str],
    requests: Sequence[dict[str, Any]],
    *,
    warm_up: dict[str, Any],
    column: Column,
) -> Observed:
    """Ask all ``requests`` of ``edges``, over a link as long as the column says. ``warm_up`` goes
    to each edge first, unmeasured, so that it knows how long the link is."""
    await where.link.set_round_trip(column.round_trip_ms)
    bases = [f"{url}/v1" for url in edges]
    for base in bases:
        await asyncio.to_thread(stream_all, [base], [warm_up], num_streams=1)
    before = await _readings(where, edges)
    seen = await asyncio.to_thread(stream_all, bases, requests, num_streams=column.streams)
    after = await _readings(where, edges)
    verifier, of_edges = (late - early for late, early in zip(after, before, strict=True))
    return Observed(seen.timed, seen.wall_s, verifier, of_edges, os.getloadavg()[0])


async def check_drafting(gauge: str, urls: Sequence[str]) -> None:
    """A service whose drafter cannot be loaded serves on without one, which is not what a column
    is about. Raises CommandFailed."""
    for url in urls:
        if (await asyncio.to_thread(read, url)).value(gauge) != 1.0:
            raise CommandFailed(f"{url} drafts nothing: its drafter could not be loaded")


async def _readings(where: Cloud, edges: Sequence[str]) -> tuple[Reading, Reading]:
    """Of the verifier, and of the edges together."""
    await asyncio.sleep(SETTLE_S)
    verifier = await asyncio.to_thread(read, where.verifier_url)
    of_edges = [await asyncio.to_thread(read, url) for url in edges]
    return verifier, functools.reduce(add, of_edges)
