"""Listeners that say what a test wants, and a link's options that do not wait long. For tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from specedge.link._connection import RecoveryPolicy
from specedge.link.nats import NatsOptions

QUICK = RecoveryPolicy(open_timeout_s=1.0, first_wait_s=0.02, longest_wait_s=0.05)
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
