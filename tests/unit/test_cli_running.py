"""How a running system says what it goes without, and, when it cannot go on, why."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from specedge.cli import running
from specedge.cli.child import Child
from specedge.cli.stack import ProcessPlan, StackOptions
from specedge.cli.supervisor import Supervisor
from specedge.cli.up import _described
from specedge.cli.waiting import Note, ProgressDisplay, Progression, watch_readiness
from specedge.link.broker import Broker, BrokerFailed
from specedge.service.runtime import Tasks


class LostBroker:
    """Has ended, and cannot be started again."""

    pid = None

    async def start(self) -> None:
        raise BrokerFailed("its port is taken")


def test_a_broker_that_cannot_be_started_again_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: Any) -> None:
        async with Tasks() as tasks:
            broker = cast("Broker", LostBroker())
            tasks.start(running._keep_broker(broker, ProgressDisplay([])), name="broker")
            await asyncio.Event().wait()

    monkeypatch.setattr(running, "quiet_logs", lambda: None)  # would outlast this test
    monkeypatch.setattr(running, "_run", run)

    with pytest.raises(BrokerFailed, match="its port is taken"):
        running.run_with_stack(StackOptions(port=0), asyncio.sleep)  # type: ignore[arg-type]


def test_a_pipe_that_is_closed_early_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends in silence then, as others do."""

    async def run(*_: Any) -> None:
        async with Tasks():
            raise BrokenPipeError

    monkeypatch.setattr(running, "quiet_logs", lambda: None)
    monkeypatch.setattr(running, "_run", run)

    with pytest.raises(BrokenPipeError):
        running.run_with_stack(StackOptions(port=0), asyncio.sleep)  # type: ignore[arg-type]


async def test_how_far_processes_are_is_told_until_the_end_begins_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Any] = []

    async def watch(child: Child, on_change: Any) -> None:
        told.append(on_change)

    monkeypatch.setattr(running, "watch_readiness", watch)
    monkeypatch.setattr(Supervisor, "keep", lambda *_: asyncio.sleep(0))
    plan = ProcessPlan("edge", "specedge_edge", ())
    supervisor = Supervisor([plan], run_dir=tmp_path, notice=lambda _: None)
    broker = cast("Broker", LostBroker())
    async with running._supervised(supervisor, broker, ProgressDisplay(["edge"])):
        while not told:
            await asyncio.sleep(0)
        told[0]("edge", Progression("weights"))

    told[0]("edge", Progression("starting"))

    assert capsys.readouterr().err == "edge: weights\n"


async def test_who_stops_a_system_is_told_at_once_that_it_is_ending(
    capsys: pytest.CaptureFixture[str],
) -> None:
    supervisor = Supervisor([], run_dir=Path(), notice=lambda _: None)

    with pytest.raises(asyncio.CancelledError), running._signals(supervisor, ProgressDisplay([])):
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    asyncio.current_task().uncancel()  # type: ignore[union-attr]
    assert capsys.readouterr().err == f"{running.STOPPING}\n"


async def test_a_process_too_busy_to_answer_is_as_far_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it imports a large library, it answers nobody for seconds."""
    loading = httpx.Response(503, json={"phase": "weights", "percent": 40.0})
    answers = [loading, httpx.ReadTimeout(""), loading, httpx.ConnectError(""), httpx.Response(200)]

    async def get(*_: object) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    child = Child(ProcessPlan("child", "service", ()), run_dir=tmp_path)
    child.http_url = "http://127.0.0.1:1"
    told: list[str] = []
    monkeypatch.setattr(httpx.AsyncClient, "get", get)
    monkeypatch.setattr("specedge.cli.waiting.POLL_S", 0.0)

    async with Tasks() as tasks:
        tasks.start(watch_readiness(child, lambda _, now: told.append(now.phase)), name="watch")
        await child.ready.wait()

    assert told == ["weights", "starting", "ready"]


@pytest.mark.parametrize("notes", [[], [Note("edge", "drafter", "no such folder")]])
def test_a_script_learns_what_a_ready_system_does_without(
    notes: list[Note], tmp_path: Path
) -> None:
    edge = Child(ProcessPlan("edge", "specedge_edge", ()), run_dir=tmp_path)
    edge.http_url = "http://127.0.0.1:1"
    stack = running.RunningStack([edge], [edge], "nats://127.0.0.1:2", tmp_path, notes)

    said = _described(stack, "tiny")

    assert said.get("notes", []) == [
        {"process": note.process, "what": note.what, "why": note.why} for note in notes
    ]
