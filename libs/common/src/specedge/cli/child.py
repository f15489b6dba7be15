"""One service process: tethered to us, its log kept, its port learned, stopped for certain.

Knows nothing of restarts (``specedge.cli.supervisor``) or of readiness (``specedge.cli.waiting``).
"""

import asyncio
import asyncio.subprocess
import contextlib
import os
import signal
import sys
from collections import deque
from io import RawIOBase
from pathlib import Path
from typing import Final

import orjson

from specedge.cli.addresses import url_from_here
from specedge.cli.stack import ProcessPlan
from specedge.link import tether
from specedge.service.settings import environment_for

LOG_LINE_LIMIT_BYTES: Final = 1 << 20
LAST_LINES: Final = 25


class Child:
    """A process that may be run again and again; each run appends to the same log file.

    Owned by one supervisor on one event loop.
    """

    def __init__(self, plan: ProcessPlan, *, run_dir: Path) -> None:
        self.plan = plan
        self.log_path = run_dir / f"{plan.name}.log"
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.http_url: str | None = None  # known once the process said where it listens
        self.ready = asyncio.Event()  # set by whoever watches readiness; a start clears it
        self._last_port: str | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        """The process's name in logs and messages."""
        return self.plan.name

    @property
    def pid(self) -> int | None:
        """The running process, or None."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run_once(self) -> int:
        """Start the process and return its exit code (negative: the signal that killed it).

        Cancelling it kills the process, and whatever it has started, and waits for its end.
        """
        self.http_url = None
        self.ready.clear()
        self.last_lines.clear()
        process = await asyncio.create_subprocess_exec(
            *self._command(),
            env=environment_for(self.plan.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on, in order
            limit=LOG_LINE_LIMIT_BYTES,
        )
        self._process = process
        try:
            with self.log_path.open("ab", buffering=0) as log:
                await self._keep_log(process, log)
            return await process.wait()
        finally:
            if process.returncode is None:
                _kill(process)
                await asyncio.shield(process.wait())

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after ``grace_s``. Returns when the process is gone. Idempotent."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            _kill(process)
            await process.wait()

    def kill(self) -> None:
        """SIGKILL, at once, without waiting."""
        if self._process is not None and self._process.returncode is None:
            _kill(self._process)

    def _command(self) -> list[str]:
        tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
        program = [sys.executable, "-m", self.plan.module, *self.plan.flags]
        if self.plan.keeps_port and self._last_port is not None:
            program += ["--http-port", self._last_port]  # the last one given counts
        return [*tethered, *program]

    async def _keep_log(self, process: asyncio.subprocess.Process, log: RawIOBase) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line over the limit: the reader has dropped it
                continue
            if not line:
                return
            with contextlib.suppress(OSError):  # a full disk costs the line, and nothing else
                log.write(line)
            self._on_line(line)

    def _on_line(self, line: bytes) -> None:
        self.last_lines.append(line.decode(errors="replace").rstrip())
        if b"http_listening" in line:
            self.http_url = _listening_url(line) or self.http_url
            if self.http_url is not None:
                self._last_port = self.http_url.rpartition(":")[2]


def _kill(process: asyncio.subprocess.Process) -> None:
    """With what it has started itself, such as the one that fetches a model: it has a session, and
    so a group, of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _listening_url(line: bytes) -> str | None:
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(said, dict) or said.get("event") != "http_listening":
        return None
    return url_from_here(str(said.get("host")), int(said.get("port", 0)))
