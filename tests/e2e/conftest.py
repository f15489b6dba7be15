"""A whole system with the real model, started as a person starts it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

SPECEDGE = [sys.executable, "-m", "specedge.cli.main"]
STOP_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Up:
    """A running `specedge up`, and what it said when it was ready."""

    process: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def base_url(self) -> str:
        return str(self.said["base_url"])

    @property
    def model(self) -> str:
        return str(self.said["model"])

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key="unused", max_retries=0, timeout=300)

    def family(self) -> list[int]:
        """Pids of the command and of everything below it."""
        return descendants(self.process.pid)


@contextmanager
def running_up(*flags: str, **variables: str) -> Iterator[Up]:
    """`specedge up` on a free port, ready, with ``variables`` added to its environment; ended
    afterwards if it still runs."""
    command = [*SPECEDGE, "up", "--port", "0", "--json", "--dtype", "fp32", *flags]
    environment = os.environ | variables
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "specedge up ended before it was ready; see stderr"
            yield Up(process, json.loads(line))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(STOP_WITHIN_S)


@pytest.fixture(scope="session")
def up() -> Iterator[Up]:
    """One system for all tests that leave it as it was. It always drafts: on a slow CPU the edge
    may find that it had better not, and then there is nothing to count."""
    with running_up(SPECEDGE_ADAPTIVE="false") as running:
        yield running


def descendants(pid: int) -> list[int]:
    """``pid`` and all processes below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        pending += children.get(found[-1], [])
    return found


def alive(pids: list[int]) -> list[int]:
    """Those of ``pids`` that still run; a zombie does not."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            running.append(pid)
    return running


def kill(pid: int) -> None:
    """SIGKILL to one process."""
    os.kill(pid, signal.SIGKILL)
