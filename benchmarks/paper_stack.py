"""The real services on emulated devices, for one cell of the paper's table: broker, scheduler and
verifier as processes, and a fleet of edges beside them.

    fleet ── nats-server ── scheduler, verifier

Every edge has a connection of its own and its own distance from the broker.
"""

import asyncio
import asyncio.subprocess
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.children import COMMON_FLAGS, running, url_of
from benchmarks.scrape import Reading, read
from specedge.cli.child import Child
from specedge.cli.failure import CommandFailed
from specedge.cli.stack import SCHEDULER_MODULE, VERIFIER_MODULE, ProcessPlan
from specedge.cli.supervisor import describe_exit
from specedge.errors import InvalidRequest
from specedge.link.base import Message
from specedge.link.broker import Broker
from specedge.link.nats import NatsLink, NatsOptions
from specedge.protocol import subjects
from specedge.protocol.codec import decode
from specedge.protocol.reports import Stat, StepReport
from specedge.service.runtime import Tasks

FLEET: Final = "specedge_edge.fleet"
GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class CellFlags:
    """What the processes of a cell are started with. Several ``fleets`` share a cell's edges, and
    ``num_verifiers`` are alike."""

    scheduler: Sequence[str]
    verifier: Sequence[str]
    fleets: Sequence[Sequence[str]]
    num_verifiers: int = 1


def recording(flags: CellFlags, folder: Path) -> CellFlags:
    """The same, and every process writes its spans into ``folder``. For one verifier."""

    def also(each: Sequence[str], name: str) -> list[str]:
        return [*each, "--spans-file", str(folder / f"{name}.jsonl")]

    return CellFlags(
        also(flags.scheduler, "scheduler"),
        also(flags.verifier, "verifier"),
        [also(each, f"fleet-{number}") for number, each in enumerate(flags.fleets)],
    )


@dataclass(slots=True)
class CellOutcome:
    """What was measured, between the fleets' ``measuring`` and ``over``.

    fleets     each fleet's own figures
    verifier, scheduler   their counters' growth, of all verifiers together
    steps      every step that the verifier reported in that time
    cpu_share  of each process, of one core
    """

    fleets: list[dict[str, Any]]
    verifier: Reading
    scheduler: Reading
    steps: list[StepReport]
    wall_s: float
    cpu_share: dict[str, float] = field(default_factory=dict)


async def run_cell(run_dir: Path, flags: CellFlags) -> CellOutcome:
    """Start it all, measure, end it all. Raises an ExceptionGroup of CommandFailed."""
    async with (
        Broker(store_dir=run_dir / "broker") as broker,
        _services(run_dir, broker.url, flags) as children,
        Tasks() as tasks,
    ):
        observer = await _Observer.connect(broker.url, tasks)
        fleets: list[_FleetProcess] = []
        try:
            for number, each in enumerate(flags.fleets):
                fleets.append(await _FleetProcess.start(broker.url, number, each, run_dir))
            outcome = await _measure(fleets, observer, children, broker)
        finally:
            await asyncio.gather(*(fleet.end() for fleet in fleets))
            await observer.close()
        return outcome


async def _measure(
    fleets: "Sequence[_FleetProcess]",
    observer: "_Observer",
    children: Sequence[Child],
    broker: Broker,
) -> CellOutcome:
    pids = {child.name: child.pid for child in children} | {"broker": broker.pid}
    pids |= {f"fleet-{number}": fleet.pid for number, fleet in enumerate(fleets)}
    for fleet in fleets:
        await fleet.until("ready")
    for fleet in fleets:
        fleet.go()
    for fleet in fleets:
        await fleet.until("measuring")
    clock = asyncio.get_running_loop()
    observer.steps.clear()
    before = await _read_all(children)
    began_s, cpu_s = clock.time(), cpu_seconds(pids)
    for fleet in fleets:
        await fleet.until("over")
    wall_s = clock.time() - began_s
    used_s = {name: late - cpu_s[name] for name, late in cpu_seconds(pids).items()}
    after = await _read_all(children)
    steps = list(observer.steps.values())
    figures = [await fleet.until("measured") for fleet in fleets]
    return CellOutcome(
        figures,
        verifier=sum(after[2:], after[1]) - sum(before[2:], before[1]),
        scheduler=after[0] - before[0],
        steps=steps,
        wall_s=wall_s,
        cpu_share={name: seconds / wall_s for name, seconds in used_s.items()},
    )


async def _read_all(children: Sequence[Child]) -> list[Reading]:
    """The scheduler's counters, then each verifier's."""
    return [await asyncio.to_thread(read, url_of(child)) for child in children]


class _FleetProcess:
    """A fleet, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._has_said_all = False
        self.pid = process.pid

    @classmethod
    async def start(
        cls, url: str, number: int, flags: Sequence[str], run_dir: Path
    ) -> "_FleetProcess":
        log = run_dir / f"fleet-{number}.log"
        common = ["--nats-url", url, "--log-format", "json", "--waits", "true"]
        command = [sys.executable, "-m", FLEET, *common, *flags]
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=1 << 24,
            )
        return cls(process, log)

    def go(self) -> None:
        """All are ready: begin together."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def until(self, event: str) -> dict[str, Any]:
        """What it says with that event. Raises CommandFailed if it ends before."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            self._has_said_all = said["event"] == "measured"
            if said["event"] == event:
                return said
        code = await self._process.wait()
        raise CommandFailed(f"the fleet {describe_exit(code)}", hint=self._log.read_text()[-2000:])

    async def end(self) -> None:
        """Idempotent. One that has said all ends by itself, and writes its spans first; another is
        asked to. What does not end in time is killed."""
        process = self._process
        assert process.stdin is not None
        process.stdin.close()  # whoever waits for a line there need not
        if not self._has_said_all:
            self._signal(signal.SIGTERM)
        for then in (signal.SIGTERM, signal.SIGKILL):
            try:
                await asyncio.wait_for(process.wait(), GRACE_S)
            except TimeoutError:
                self._signal(then)
        await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


class _Observer:
    """Hears every step that verifiers report; each is repeated, so a lost report loses none."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self.steps: dict[tuple[str, int], StepReport] = {}

    @classmethod
    async def connect(cls, url: str, tasks: Tasks) -> "_Observer":
        options = NatsOptions((url,), "observer", subjects.service_inbox("observer"))
        observer = cls(await NatsLink.connect(options, tasks=tasks))
        await observer._link.subscribe(subjects.ALL_VERIFIERS, observer._on_message)
        return observer

    async def close(self) -> None:
        await self._link.close()

    def _on_message(self, message: Message) -> None:
        if not message.subject.endswith(".stat"):
            return
        with contextlib.suppress(InvalidRequest):
            for step in decode(Stat, message.payload).steps:
                self.steps[message.subject, step.seq] = step


@contextlib.asynccontextmanager
async def _services(run_dir: Path, url: str, flags: CellFlags) -> AsyncIterator[list[Child]]:
    plans = [_plan("scheduler", SCHEDULER_MODULE, url, flags.scheduler)]
    for number in range(1, flags.num_verifiers + 1):
        name = f"verifier-{number}"
        own = ["--engine", "emulated", "--verifier-id", name, *flags.verifier]
        plans.append(_plan(name, VERIFIER_MODULE, url, own))
    async with running(plans, run_dir) as children:
        yield children


def _plan(name: str, module: str, url: str, flags: Sequence[str]) -> ProcessPlan:
    return ProcessPlan(name, module, ("--nats-url", url, *COMMON_FLAGS, *flags))


def cpu_seconds(pids: Mapping[str, int | None]) -> dict[str, float]:
    """Used so far; nothing where the system does not tell."""
    tick = os.sysconf("SC_CLK_TCK")
    used = {}
    for name, pid in pids.items():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[name] = (int(fields[11]) + int(fields[12])) / tick
    return used
