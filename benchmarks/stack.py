"""A whole system for a benchmark: ``specedge up`` as a child process, as a person would run it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

STOP_WITHIN_S: Final = 30


@dataclass(frozen=True, slots=True)
class Stack:
    """What ``specedge up --json`` said. ``base_url`` ends in /v1."""

    base_url: str
    model: str
    processes: dict[str, dict[str, Any]]

    def pid(self, name: str) -> int:
        """Of the process called ``name``."""
        return int(self.processes[name]["pid"])


@contextlib.contextmanager
def running(flags: Sequence[str], *, settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A system on free ports, ready; ended afterwards. ``settings`` are SPECEDGE_* variables that
    the services read for themselves."""
    command = [sys.executable, "-m", "specedge.cli.main", "up", "--port", "0", "--json", *flags]
    environment = {**os.environ, **(settings or {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"`specedge up` ended with {process.wait()}")
            said = json.loads(line)
            yield Stack(said["base_url"], said["model"], said["processes"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_WITHIN_S)
