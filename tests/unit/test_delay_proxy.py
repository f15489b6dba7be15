"""The proxy that makes a benchmark's link long: what it delays, and what it must not change."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator

from benchmarks.delay_proxy import HOST, DelayProxy

ROUND_TRIP_S = 0.2
# What a busy machine may add. A proxy that delays one way only, or twice, is further off.
SLACK_S = 0.08


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


async def round_trip_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """The fastest of a few, since only a delay makes all of them slow."""
    loop, took_s = asyncio.get_running_loop(), []
    for _ in range(4):
        begin_s = loop.time()
        writer.write(b"ping")
        await reader.readexactly(4)
        took_s.append(loop.time() - begin_s)
    return min(took_s)


async def test_a_round_trip_takes_as_long_as_asked_for_and_changes_when_told() -> None:
    async with echo_server() as port:
        proxy = DelayProxy(HOST, port, round_trip_s=ROUND_TRIP_S)
        async with proxy.listening() as near:
            reader, writer = await asyncio.open_connection(HOST, near)
            delayed_s = await round_trip_s(reader, writer)
            proxy.round_trip_s = 0.0
            direct_s = await round_trip_s(reader, writer)
            writer.close()

    assert ROUND_TRIP_S <= delayed_s < ROUND_TRIP_S + SLACK_S
    assert direct_s < SLACK_S


async def test_bytes_arrive_whole_in_order_and_side_by_side_not_one_delay_after_another() -> None:
    sent = os.urandom(3_000_000)
    loop = asyncio.get_running_loop()
    async with echo_server() as port:
        proxy = DelayProxy(HOST, port, round_trip_s=ROUND_TRIP_S)
        async with proxy.listening() as near:
            reader, writer = await asyncio.open_connection(HOST, near)
            begin_s = loop.time()
            writer.write(sent)
            writer.write_eof()
            received = await reader.read(-1)
            took_s = loop.time() - begin_s
            writer.close()

    assert received == sent
    # Each of the chunks is late by one delay; were they to wait for one another, it would be tens.
    assert took_s < 15 * ROUND_TRIP_S


async def test_the_end_of_a_stream_comes_after_its_last_byte_and_leaves_the_answer_open() -> None:
    heard = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read(-1) == b"question"
        heard.set()
        writer.write(b"answer")
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        proxy = DelayProxy(HOST, server.sockets[0].getsockname()[1], round_trip_s=0.02)
        async with proxy.listening() as near:
            reader, writer = await asyncio.open_connection(HOST, near)
            writer.write(b"question")
            writer.write_eof()
            assert await reader.read(-1) == b"answer"
            writer.close()

    assert heard.is_set()


async def test_a_client_is_let_go_when_nobody_listens_behind_the_proxy(nobodys_port: int) -> None:
    async with DelayProxy(HOST, nobodys_port).listening() as near:
        reader, writer = await asyncio.open_connection(HOST, near)
        async with asyncio.timeout(30):
            assert await reader.read(-1) == b""
        writer.close()


def test_the_process_says_its_port_repeats_each_round_trip_and_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "benchmarks.delay_proxy", HOST, "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        process.stdin.write("14\n")
        process.stdin.flush()
        assert process.stdout.readline() == "14\n"
        process.stdin.close()
        assert process.wait(60) == 0
