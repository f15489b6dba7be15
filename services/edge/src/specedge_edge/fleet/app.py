"""A fleet's life: connect every edge, make load, measure, and say what was measured.

Says on stdout, a JSON object a line: ``ready``, ``measuring``, ``over``, and ``measured`` with the
figures.
"""

import asyncio
import hashlib
import itertools
import os
import resource
import sys
from collections.abc import Iterator
from typing import Final

import orjson

from specedge.errors import RetryableError
from specedge.ids import EdgeId
from specedge.link.base import Link
from specedge.link.distant import DistantLink
from specedge.link.nats import NatsLink, NatsOptions
from specedge.protocol.subjects import edge_inbox
from specedge.service.runtime import DrainBegan, ServiceContext, Tasks, settle_heap
from specedge.service.spans import recording
from specedge_edge.fleet.arrivals import bursty_trace, poisson, replayed
from specedge_edge.fleet.config import FleetSettings
from specedge_edge.fleet.edges import Common, FleetEdge
from specedge_edge.fleet.figures import FleetLog, quantiles

PLACE_WITHIN_S: Final = 30.0
LINE_BYTES: Final = 4096  # that a line is read with at most
REST_S: Final = 0.2  # after a session that failed, so that a closed loop does not spin


async def run_fleet(context: ServiceContext, settings: FleetSettings) -> None:
    """All of it. Ends early, without figures, when the drain begins, or when stdin ends while it
    waits for a line: then whoever started it is gone."""
    with recording(settings.spans_file, settings.fleet, context.clock) as spans:
        common = Common(
            settings, context.clock, FleetLog(), settings.known_agreement(), spans=spans
        )
        fleet = Fleet(context, common)
        try:
            await _run(context, fleet, waits=settings.waits)
        except DrainBegan:
            pass
        finally:
            await fleet.close()


async def _run(context: ServiceContext, fleet: "Fleet", *, waits: bool) -> None:
    await context.unless_draining(fleet.connect())
    say("ready", edges=fleet.num_edges)
    if waits and not await context.unless_draining(line_on(sys.stdin.fileno())):
        return
    say("measured", **await context.unless_draining(fleet.measure()))


async def line_on(descriptor: int) -> bool:
    """Wait for a line there; False if it ends without one. Cancelled, it reads nothing."""
    came, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(descriptor, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(descriptor)
    return bool(os.read(descriptor, LINE_BYTES))


class Fleet:
    """The edges of one process and their load."""

    def __init__(self, context: ServiceContext, common: Common) -> None:
        self._context = context
        self._common = common
        self._links: list[Link] = []
        self._edges: list[FleetEdge] = []
        self._numbers = itertools.count()

    @property
    def num_edges(self) -> int:
        """That are connected."""
        return len(self._edges)

    async def connect(self) -> None:
        """One connection for each edge, and a first place. Raises LinkDown, or RetryableError when
        there is no place in time."""
        settings = self._common.settings
        for number in range(settings.edges):
            edge = edge_id(f"{settings.fleet}/{number}")
            options = NatsOptions(settings.nats_servers, edge[:12], edge_inbox(edge))
            nearby = await NatsLink.connect(options, tasks=self._context.tasks)
            self._links.append(nearby)
            distant = DistantLink(
                nearby,
                settings.wire,
                timers=self._context.clock,
                tasks=self._context.tasks,
                seed=f"{settings.seed}/{edge}",
            )
            self._edges.append(FleetEdge(edge, distant, self._common))
            await self._edges[-1].start()
        await self._first_place()
        settle_heap()

    async def close(self) -> None:
        """Disconnect."""
        for link in self._links:
            await link.close()

    async def measure(self) -> dict[str, object]:
        """Load for the time of warming up and measuring; the figures of the latter."""
        settings, clock = self._common.settings, self._context.clock
        async with Tasks() as tasks:
            self._load(tasks)
            await asyncio.sleep(settings.warm_up_s)
            busy_s = [edge.device.busy_s for edge in self._edges]
            for edge in self._edges:
                edge.device.late_s.clear()
                edge.begin()
            self._common.log.begin(clock.now_s())
            say("measuring")
            began_s, cpu_s = clock.now_s(), cpu_seconds()
            await asyncio.sleep(settings.measure_s)
            wall_s, cpu_s = clock.now_s() - began_s, cpu_seconds() - cpu_s
            num_tokens = self._common.log.num_tokens
            say("over")
        late_s = [late for edge in self._edges for late in edge.device.late_s]
        busy = sum(
            edge.device.busy_s - before for edge, before in zip(self._edges, busy_s, strict=True)
        )
        return self._common.log.summary(wall_s) | {
            "tokens": num_tokens,
            "cpu_share": cpu_s / wall_s,
            "device_busy_share": busy / wall_s / len(self._edges),
            "device_late_ms": quantiles([late * 1e3 for late in late_s]),
        }

    def _load(self, tasks: Tasks) -> None:
        settings = self._common.settings
        if (moments := self._moments()) is not None:
            tasks.start(self._open_loop(tasks, moments), name="arrivals")
            return
        for edge in self._edges:
            for _ in range(settings.sessions):
                tasks.start(self._closed_loop(edge), name="closed-loop")

    def _moments(self) -> Iterator[float] | None:
        settings = self._common.settings
        if (recorded := settings.known_arrivals()) is not None:
            return replayed(recorded)
        rate = settings.arrivals_per_s
        if rate > 0 and settings.arrivals == "bursty":
            length_s = settings.warm_up_s + settings.measure_s
            return replayed(bursty_trace(rate, length_s, seed=settings.seed))
        if rate > 0:
            return poisson(settings.arrivals_per_s, settings.seed)
        return None

    async def _closed_loop(self, edge: FleetEdge) -> None:
        """One session after the other, until cancelled."""
        while True:
            if not await edge.generate(next(self._numbers)):
                await asyncio.sleep(REST_S)

    async def _open_loop(self, tasks: Tasks, moments: Iterator[float]) -> None:
        """Sessions when they come, however many run already, on the edges in turn."""
        began_s = self._context.clock.now_s()
        for at_s, edge in zip(moments, itertools.cycle(self._edges), strict=False):
            await asyncio.sleep(max(0.0, began_s + at_s - self._context.clock.now_s()))
            tasks.start(self._one(edge), name="session")

    async def _one(self, edge: FleetEdge) -> None:
        await edge.generate(next(self._numbers))

    async def _first_place(self) -> None:
        """Verifiers may still be on their way."""
        async with asyncio.timeout(PLACE_WITHIN_S):
            while True:
                try:
                    await self._edges[0].ask()
                except RetryableError:
                    await asyncio.sleep(REST_S)
                else:
                    return


def edge_id(name: str) -> EdgeId:
    """Looks like a public key, but nobody holds its seed: for brokers that ask for none."""
    digest = hashlib.sha512(name.encode()).digest()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    return EdgeId("U" + "".join(letters[byte % 32] for byte in digest[:55]))


def cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def say(event: str, **figures: object) -> None:
    """One line."""
    sys.stdout.buffer.write(orjson.dumps({"event": event, **figures}) + b"\n")
    sys.stdout.buffer.flush()
