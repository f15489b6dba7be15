"""What ``benchmarks.scale`` measures: a real scheduler, a real broker, and a load, as processes.

The scheduler has a core of its own where there are two, and everything else has the other.
"""

import argparse
import asyncio
import asyncio.subprocess
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from benchmarks.awake import kept_awake
from benchmarks.children import COMMON_FLAGS, running, url_of
from benchmarks.emulate import flags_of
from benchmarks.paper_stack import cpu_seconds, run_cell
from benchmarks.pinned import ANY, Cores
from benchmarks.scrape import Reading, read
from specedge.cli.failure import CommandFailed
from specedge.cli.stack import SCHEDULER_MODULE, ProcessPlan
from specedge.link.broker import Broker
from specedge_scheduler.sim.scenario import Scenario, read_scenario

FLEETS: Final = 3
LOAD: Final = "benchmarks.scale_load"
SAMPLE_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was counted while everything ran.

    cpu_s   of each process
    memory  (seconds, resident bytes) of the scheduler; empty where nobody looked
    spent   (seconds, CPU seconds) of the scheduler, as often
    load    what the load says of itself
    """

    scheduler: Reading
    cpu_s: dict[str, float]
    wall_s: float
    memory: list[tuple[float, int]]
    spent: list[tuple[float, float]]
    load: dict[str, Any]


async def run_scripted(
    run_dir: Path, arguments: argparse.Namespace, *, is_awake: bool = True
) -> Outcome:
    """Edges and verifiers by script; ``is_awake``: on cores that do not sleep in between. Raises
    CommandFailed if one of the processes ends."""
    cores = Cores.of_this_machine()
    spinning = kept_awake((cores.verifier, cores.others) if is_awake else ())
    async with spinning, Broker(store_dir=run_dir / "broker") as broker:
        flags = ("--nats-url", broker.url, *COMMON_FLAGS)
        plan = ProcessPlan("scheduler", SCHEDULER_MODULE, flags)
        async with running([plan], run_dir) as (scheduler,):
            load = await _LoadProcess.start(broker.url, arguments)
            pids = {"scheduler": scheduler.pid, "broker": broker.pid, "load": load.pid}
            for name, pid in pids.items():
                _pin(pid, cores.verifier if name == "scheduler" else cores.others)
            try:
                await load.until("measuring")
                before = await asyncio.to_thread(read, url_of(scheduler))
                began_s, cpu_s = monotonic(), cpu_seconds(pids)
                memory, spent = await _watch(scheduler.pid, arguments.seconds - 2 * SAMPLE_S)
                await load.until("over")
                wall_s, late_s = monotonic() - began_s, cpu_seconds(pids)
                after = await asyncio.to_thread(read, url_of(scheduler))
                said = await load.until("measured")
            finally:
                await load.end()
    used_s = {name: late_s[name] - cpu_s[name] for name in cpu_s}
    counted = {name: said[name] for name in ("sessions", "refused", "said_again")}
    return Outcome(after - before, used_s, wall_s, memory, spent, counted)


async def run_services(run_dir: Path, arguments: argparse.Namespace) -> Outcome:
    """The real edges and verifiers, on emulated devices."""
    scenario = _scenario(arguments)
    cell = await run_cell(run_dir, flags_of(scenario, -(-arguments.edges // FLEETS)))
    cpu_s = {name: share * cell.wall_s for name, share in cell.cpu_share.items()}
    return Outcome(cell.scheduler, cpu_s, cell.wall_s, [], [], {})


class _LoadProcess:
    """``benchmarks.scale_load``, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, url: str, arguments: argparse.Namespace) -> "_LoadProcess":
        """Its edges connect at once."""
        flags = [
            *("--nats-url", url, "--edges", arguments.edges, "--verifiers", arguments.verifiers),
            *("--rounds-per-s", arguments.rounds_per_s, "--nodes", arguments.nodes),
            *("--session-rounds", arguments.session_rounds),
            *("--warm-up-s", arguments.warm_up, "--measure-s", arguments.seconds),
        ]
        command = [sys.executable, "-m", LOAD, *map(str, flags)]
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    async def until(self, event: str) -> dict[str, Any]:
        """What it says with that event. Raises CommandFailed if it ends before."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event:
                return said
        raise CommandFailed(f"the load ended before {event!r}", hint="it wrote why above")

    async def end(self) -> None:
        """Idempotent."""
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


def _pin(pid: int | None, core: str) -> None:
    if pid is not None and core != ANY:
        os.sched_setaffinity(pid, {int(core)})


async def _watch(
    pid: int | None, for_s: float
) -> tuple[list[tuple[float, int]], list[tuple[float, float]]]:
    """Its resident memory, and the CPU time that it used, now and then."""
    memory: list[tuple[float, int]] = []
    spent: list[tuple[float, float]] = []
    began_s = monotonic()
    while (at_s := monotonic() - began_s) < for_s:
        memory.append((at_s, _resident_bytes(pid)))
        spent.extend((at_s, used_s) for used_s in cpu_seconds({"it": pid}).values())
        await asyncio.sleep(SAMPLE_S)
    return memory, spent


def _resident_bytes(pid: int | None) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _scenario(arguments: argparse.Namespace) -> Scenario:
    edges = {
        "count": arguments.edges,
        "draft_pass_ms": 4.0,
        "depth": 4,
        "acceptance": [0.78],
        "link": {"round_trip_ms": 14.07},
        "session": {"prompt_tokens": 32, "output_tokens": 4000},
    }
    verifiers = {"count": arguments.verifiers, "slots": 128, "device": {"fixed_ms": 40.0}}
    return read_scenario(
        {
            "duration_s": arguments.seconds + arguments.warm_up,
            "warmup_s": arguments.warm_up,
            "verifiers": [verifiers],
            "edges": [edges],
        }
    )
