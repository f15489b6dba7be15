"""A whole system running on this machine: broker, services, supervision, and an orderly end."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from specedge.cli.addresses import check_address
from specedge.cli.child import Child
from specedge.cli.chosen_models import check_folders
from specedge.cli.console import quiet_logs
from specedge.cli.failure import CommandFailed
from specedge.cli.run_folder import run_folder
from specedge.cli.stack import StackOptions, edge_names, plan_processes
from specedge.cli.supervisor import Supervisor
from specedge.cli.waiting import (
    Note,
    ProgressDisplay,
    Progression,
    read_notes,
    until_ready,
    watch_readiness,
)
from specedge.errors import SpecEdgeError
from specedge.link.broker import Broker
from specedge.service.runtime import Tasks

T = TypeVar("T")

BROKER_CHECK_S: Final = 0.25
STOPPING: Final = "stopping; Ctrl-C again kills what is left"
READY_WITHIN_S: Final = 3600.0  # the first start fetches a model, on whatever line there is


class Interrupted(Exception):
    """A signal asked for the end, and everything has been ended."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A system that is ready. ``edges`` holds the one on the chosen port first, ``notes`` what
    processes do without; a person has been told of them."""

    children: list[Child]
    edges: list[Child]
    nats_url: str
    run_dir: Path
    notes: list[Note]

    @property
    def base_url(self) -> str:
        """Of the first edge, without ``/v1``."""
        url = self.edges[0].http_url
        assert url is not None, "a ready edge has said where it listens"
        return url


def run_with_stack(options: StackOptions, body: Callable[[RunningStack], Awaitable[T]]) -> T:
    """Start a system, run ``body`` when it is ready, end the system, return what ``body`` did.

    SIGINT or SIGTERM cancels ``body`` and ends the system in order, then raises Interrupted; a
    second one kills what is left. Raises CommandFailed or SpecEdgeError when the system cannot be
    started or kept alive, OSError where nothing can be written, as to a pipe that was closed.
    """
    check_address(options.host, options.port)
    check_folders(options)
    quiet_logs()
    try:
        return asyncio.run(_run(options, body))
    except asyncio.CancelledError:
        raise Interrupted from None
    except BaseExceptionGroup as group:
        failures, _ = group.split((CommandFailed, SpecEdgeError, OSError))
        if failures is None:
            raise
        raise _first(failures) from None


async def _run(options: StackOptions, body: Callable[[RunningStack], Awaitable[T]]) -> T:
    with run_folder() as run_dir:
        async with Broker(store_dir=run_dir / "broker") as broker:
            return await _run_on(broker, run_dir, options, body)


async def _run_on(
    broker: Broker,
    run_dir: Path,
    options: StackOptions,
    body: Callable[[RunningStack], Awaitable[T]],
) -> T:
    plans = plan_processes(options, nats_url=broker.url, run_dir=run_dir)
    display = ProgressDisplay([plan.name for plan in plans])
    supervisor = Supervisor(plans, run_dir=run_dir, notice=display.notice)
    with _signals(supervisor, display):
        async with _supervised(supervisor, broker, display):
            with display:
                await _until_ready(supervisor)
            children, edges = supervisor.children, map(supervisor.child, edge_names(options))
            notes = await read_notes(children)
            for note in notes:
                display.notice(f"warning: {note.process} goes without {note.what}: {note.why}")
            return await body(RunningStack(children, list(edges), broker.url, run_dir, notes))


@contextlib.asynccontextmanager
async def _supervised(
    supervisor: Supervisor, broker: Broker, display: ProgressDisplay
) -> AsyncIterator[None]:
    def show(name: str, now: Progression) -> None:
        if not supervisor.is_stopping():  # how far the end has come is nobody's concern
            display.show(name, now)

    async with Tasks() as tasks:
        tasks.start(_keep_broker(broker, display), name="broker")
        for child in supervisor.children:
            tasks.start(supervisor.keep(child), name=child.name)
            tasks.start(watch_readiness(child, show), name=f"watch {child.name}")
        try:
            yield
        finally:
            await supervisor.stop()


async def _keep_broker(broker: Broker, display: ProgressDisplay) -> None:
    """Start the broker again, on its port, whenever it is gone. Runs until cancelled."""
    while True:
        await asyncio.sleep(BROKER_CHECK_S)
        if broker.pid is None:
            display.notice("the broker ended; starting it again")
            await broker.start()


@contextlib.contextmanager
def _signals(supervisor: Supervisor, display: ProgressDisplay) -> Iterator[None]:
    """The first signal cancels the running task, which ends all in order; the second kills. The
    order takes a while where a process is in the middle of loading."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked: list[int] = []

    def on_signal(number: int) -> None:
        asked.append(number)
        if len(asked) == 1:
            display.notice(f"\n{STOPPING}" if sys.stderr.isatty() else STOPPING)  # after "^C"
            task.cancel()
        else:
            supervisor.kill()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _until_ready(supervisor: Supervisor) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await until_ready(supervisor.children)
    except TimeoutError:
        late = next(child for child in supervisor.children if not child.ready.is_set())
        raise CommandFailed(
            f"{late.name} was not ready within {READY_WITHIN_S:.0f} s",
            hint=f"Its log: {late.log_path}",
        ) from None


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
