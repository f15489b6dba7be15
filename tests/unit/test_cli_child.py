"""What a process of the command's has written and started, when it ends or has to be ended."""

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from specedge.cli.child import Child
from specedge.cli.stack import ProcessPlan

# Ignores a polite end, and so does what it starts; a line tells the pid of that one.
FETCHING = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
fetching = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(fetching.pid, flush=True)
time.sleep(600)
"""


async def test_a_full_disk_costs_lines_of_a_log_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talking.py").write_text("import sys; print('one'); print('two'); sys.exit(3)")
    monkeypatch.chdir(tmp_path)
    child = Child(ProcessPlan("child", "talking", ()), run_dir=tmp_path)
    child.log_path = Path("/dev/full")

    assert await child.run_once() == 3

    assert list(child.last_lines) == ["one", "two"]


async def killed(child: Child, run: asyncio.Task[int]) -> None:
    child.kill()


async def stopped(child: Child, run: asyncio.Task[int]) -> None:
    await child.stop(grace_s=0.05)


async def cancelled(child: Child, run: asyncio.Task[int]) -> None:
    run.cancel()


@pytest.mark.parametrize("ended", [killed, stopped, cancelled])
async def test_a_killed_process_leaves_nothing_behind_that_it_has_started(
    ended: Callable[..., "asyncio.Future[None]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fetching.py").write_text(FETCHING)
    monkeypatch.chdir(tmp_path)
    child = Child(ProcessPlan("child", "fetching", ()), run_dir=tmp_path)
    run = asyncio.ensure_future(child.run_once())
    async with asyncio.timeout(20):
        while not child.last_lines:
            await asyncio.sleep(0.01)
    watch = os.pidfd_open(int(child.last_lines[0]))

    await ended(child, run)
    await asyncio.wait([run])

    readable, _, _ = select.select([watch], [], [], 5)  # a pidfd is readable at the end
    os.close(watch)
    assert readable
