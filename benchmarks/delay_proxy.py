"""A TCP proxy that holds every byte back for half a round trip, each way: a link of that length.

Each chunk is stamped when it arrives and handed on when its time has come, in order, with no limit
of bandwidth. ``python -m benchmarks.delay_proxy <host> <port>`` runs it as a process of its own, so
that no other work of a benchmark delays it further: it says its port on stdout, takes round trips
in milliseconds on stdin, a line each, repeats each when it holds, and ends with its stdin.
"""

import asyncio
import contextlib
import selectors
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import Final

from specedge.service.runtime import Tasks

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 1 << 16
# Chunks under way in one direction; more wait in the sender's socket.
MAX_UNDER_WAY: Final = 4096
NOTHING_MORE: Final = b""

# When a chunk may go on, in the loop's seconds, and its bytes.
_UnderWay = asyncio.Queue[tuple[float, bytes]]


class DelayProxy:
    """Proxies to one address. ``round_trip_s`` may be changed at any time; it counts for what
    arrives from then on. Used from one event loop."""

    def __init__(self, host: str, port: int, *, round_trip_s: float = 0.0) -> None:
        self.round_trip_s = round_trip_s
        self._host = host
        self._port = port

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port to connect to. Leaving closes all connections, with what is under way."""
        async with Tasks() as tasks:

            def on_connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                tasks.start(self._serve(reader, writer), name="proxied connection")

            server = await asyncio.start_server(on_connected, HOST, 0)
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            with contextlib.closing(far_writer):
                for each in (writer, far_writer):
                    _send_at_once(each)
                await asyncio.gather(
                    self._carry(reader, far_writer), self._carry(far_reader, writer)
                )

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its sender has nothing more to say."""
        under_way: _UnderWay = asyncio.Queue(MAX_UNDER_WAY)
        await asyncio.gather(self._take(reader, under_way), self._hand_on(under_way, writer))

    async def _take(self, reader: asyncio.StreamReader, under_way: _UnderWay) -> None:
        now_s = asyncio.get_running_loop().time
        chunk = None
        while chunk != NOTHING_MORE:
            try:
                chunk = await reader.read(CHUNK_BYTES)
            except ConnectionError:
                chunk = NOTHING_MORE
            await under_way.put((now_s() + self.round_trip_s / 2, chunk))

    async def _hand_on(self, under_way: _UnderWay, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, chunk = await under_way.get()
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if chunk == NOTHING_MORE:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()


def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop that wakes to the microsecond: ``select`` does, where ``epoll`` rounds a wait up to
    the next millisecond, which would lengthen each way by half of one on average."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _send_at_once(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main(argv: list[str]) -> None:
    """See the file's first lines."""
    host, port = argv
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(_run(DelayProxy(host, int(port))))


async def _run(proxy: DelayProxy) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def obey(line: str) -> None:
        proxy.round_trip_s = float(line) / 1e3
        print(line.strip(), flush=True)

    def listen_to_stdin() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(obey, line)
        loop.call_soon_threadsafe(ended.set)

    async with proxy.listening() as port:
        print(port, flush=True)
        threading.Thread(target=listen_to_stdin, daemon=True).start()
        await ended.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
