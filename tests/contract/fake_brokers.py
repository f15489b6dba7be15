"""Listeners that say what a test wants, and a link's options that do not wait long. For tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from specedge.link._connection import RecoveryPolicy
from specedge.link.nats import NatsOptions
from specedge.service.runtime import Tasks

QUICK = RecoveryPolicy(open_timeout_s=30.0, first_wait_s=0.02, longest_wait_s=0.05)
BRIEF = replace(QUICK, open_timeout_s=2.0)  # with those who never let anybody in
Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def options(*urls: str, **changes: object) -> NatsOptions:
    base = NatsOptions(servers=urls, name="test", recovery=QUICK)
    return replace(base, **changes)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def fake_broker(speak: Speak) -> AsyncIterator[str]:
    """A listener that says what ``speak`` says. Ends all conversations when left."""
    writers: list[asyncio.StreamWriter] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await speak(reader, writer)

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


INFO = b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"headers":true}\r\n'


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The opening of the protocol, up to the client's first PING answered."""
    writer.write(INFO)
    await reader.readuntil(b"PING\r\n")
    writer.write(b"PONG\r\n")


async def answer_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")


class FirstGuest:
    """What ``fake_broker`` says: to its first guest, once ``begin`` is set, whatever ``act`` does;
    to all others what a broker says. For one test."""

    def __init__(
        self, tasks: Tasks, act: Callable[[asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self.num_visits = 0
        self.begin = asyncio.Event()
        self._tasks = tasks
        self._act = act

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_visits += 1
        await greet(reader, writer)
        if self.num_visits == 1:
            self._tasks.start(self._once_begun(writer), name="act")
        await answer_pings(reader, writer)

    async def _once_begun(self, writer: asyncio.StreamWriter) -> None:
        await self.begin.wait()
        await self._act(writer)
