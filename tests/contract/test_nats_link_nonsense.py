"""The link over NATS towards somebody who speaks something else, or says no end of it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from specedge.credentials.nkey import UserKey
from specedge.errors import LinkDown
from specedge.link.base import LinkState
from specedge.link.nats import NatsLink
from specedge.service.runtime import Tasks
from tests.contract.fake_brokers import (
    BRIEF,
    INFO,
    FirstGuest,
    answer_pings,
    fake_broker,
    greet,
    options,
)
from tests.contract.link_networks import States

SEED = UserKey.create().seed
SAID_INSTEAD_OF_A_GREETING = {
    "a list": b"INFO []\r\n",
    "a number": b"INFO 5\r\n",
    "no space": b"INFO{}\r\n",
    "peers that are none": b'INFO {"connect_urls":["[::1"]}\r\n',
    "a nonce that is none": b'INFO {"auth_required":true,"nonce":5}\r\n',
    "half a character": b'INFO {"auth_required":true,"nonce":"\\ud800"}\r\n',
    "a limit that is none": b'INFO {"max_payload":"much"}\r\n',
    "no line": b"x" * 200_000,
    "a line too long": b'INFO {"x":"' + b"x" * 200_000 + b'"}\r\n',
    "no letters": b'INFO {"x":"\xff"}\r\n',
}
SAID_INSTEAD_OF_A_WELCOME = {
    "no letters": b"-ERR '\xff'\r\n",
    "no reason": b"-ERR\r\n",
    "no line": b"x" * 200_000,
}


async def greet_oddly(
    greeting: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(greeting)
    await answer_pings(reader, writer)


async def welcome_oddly(
    welcome: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(INFO)
    await reader.readuntil(b"PING\r\n")
    writer.write(welcome)
    await reader.read()


ODDITIES = [
    *(
        pytest.param(greet_oddly, said, id=name)
        for name, said in SAID_INSTEAD_OF_A_GREETING.items()
    ),
    *(
        pytest.param(welcome_oddly, said, id=f"welcome: {name}")
        for name, said in SAID_INSTEAD_OF_A_WELCOME.items()
    ),
]
Oddly = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize(("speak_oddly", "said"), ODDITIES)
async def test_whoever_answers_at_the_brokers_port_costs_a_link_one_attempt(
    tasks: Tasks, speak_oddly: Oddly, said: bytes
) -> None:
    visits = 0
    lose = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        if visits == 2:
            await speak_oddly(said, reader, writer)
            return
        await greet(reader, writer)
        if visits == 1:
            tasks.start(end(writer), name="end")
        await answer_pings(reader, writer)

    async def end(writer: asyncio.StreamWriter) -> None:
        await lose.wait()
        writer.transport.abort()

    async with fake_broker(speak) as url:
        link = await NatsLink.connect(options(url, seed=SEED, connect_timeout_s=0.5), tasks=tasks)
        states = States(link)
        lose.set()
        await states.until(LinkState.CONNECTED)
        await link.publish("test.after", b"x")
        await link.close()

    assert states.seen == [LinkState.DISCONNECTED, LinkState.CONNECTED, LinkState.CLOSED]
    assert visits == 3


async def test_whoever_never_speaks_as_a_broker_is_told_as_that(tasks: Tasks) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet_oddly(b"INFO []\r\n", reader, writer)

    async with fake_broker(speak) as url:
        with pytest.raises(LinkDown, match=r"127\.0\.0\.1:\d+: .*not understood"):
            await NatsLink.connect(options(url, recovery=BRIEF), tasks=tasks)


@pytest.mark.parametrize("beginning", [b"MSG ", b"+OK\r\nINFO ", b"MSG a 1 100000000000\r\n"])
async def test_of_what_has_no_end_a_link_keeps_little(tasks: Tasks, beginning: bytes) -> None:
    told = 0

    async def talk_without_end(writer: asyncio.StreamWriter) -> None:
        nonlocal told
        writer.write(beginning)
        with contextlib.suppress(ConnectionError):
            while not writer.transport.is_closing():
                writer.write(bytes(65536))
                told += 65536
                await writer.drain()

    guest = FirstGuest(tasks, talk_without_end)
    async with fake_broker(guest) as url:
        link = await NatsLink.connect(options(url), tasks=tasks)
        states = States(link)
        guest.begin.set()
        await states.until(LinkState.CONNECTED)
        await link.close()

    assert guest.num_visits == 2
    assert told < 32 << 20  # what is on its way included
