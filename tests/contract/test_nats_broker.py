"""The broker itself: how it starts and ends, and a client that does not read."""

import asyncio
import contextlib
import os
import re
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from specedge.link.broker import Broker, BrokerFailed
from specedge.link.nats import NatsLink
from specedge.service.runtime import Tasks
from tests.contract.fake_brokers import options
from tests.contract.link_networks import PATIENCE_S, Received


async def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with Broker(store_dir=tmp_path / "first") as first:
        second = Broker(store_dir=tmp_path / "second", port=first.port)
        with pytest.raises(BrokerFailed, match="address already in use"):
            await second.start()

    assert second.pid is None


@pytest.mark.parametrize("name", ["Müller", "日本", "my models", 'a "b"', "$HOME"])
async def test_a_broker_starts_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    async with Broker(store_dir=tmp_path / name / name) as broker:
        assert broker.port

    assert (tmp_path / name / name / "jetstream").is_dir()


async def test_a_stopped_broker_has_ended_and_starts_again_on_its_port(tmp_path: Path) -> None:
    broker = Broker(store_dir=tmp_path)
    await broker.start()
    port, pid = broker.port, broker.pid
    assert pid is not None

    await broker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await broker.start()

    assert (broker.port, broker.pid is None) == (port, False)
    await broker.kill()
    assert broker.pid is None


async def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from specedge.link.broker import Broker
async def main():
    async with Broker(store_dir=pathlib.Path({str(tmp_path)!r})) as broker:
        print(broker.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    pid = int(await starter.stdout.readline())
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)

    try:
        starter.kill()
        await starter.wait()
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


class WatchedBroker(Broker):
    """It also says over HTTP what it counts."""

    def _config(self) -> str:
        return f"{super()._config()}http: 127.0.0.1:-1\n"

    async def num_stalled(self) -> int:
        """How often it made a publisher wait for somebody who does not read."""
        found = re.search(r"Starting http monitor on (\S+)", self.log_path.read_text())
        assert found is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{found[1]}/varz")
        return int(answer.json()["stalled_clients"])


async def test_a_client_that_stops_reading_slows_nobody_else(tmp_path: Path, tasks: Tasks) -> None:
    async with WatchedBroker(store_dir=tmp_path) as broker:
        sender = await NatsLink.connect(options(broker.url), tasks=tasks)
        good = await NatsLink.connect(options(broker.url), tasks=tasks)
        received = Received()
        await good.subscribe("test.stall.good", received)
        await good.flush()

        with await subscribed_and_silent(broker.url, "test.stall.bad"):
            for number in range(80):
                for _ in range(4):  # in all far more than the broker keeps for one client
                    await sender.publish("test.stall.bad", bytes(100_000))
                await sender.publish("test.stall.good", b"")
                await received.at_least(number + 1)
            num_stalled = await broker.num_stalled()

        assert num_stalled == 0
        await sender.close()
        await good.close()


async def subscribed_and_silent(url: str, subject: str) -> socket.socket:
    """A client that subscribes and then reads nothing more."""
    loop = asyncio.get_running_loop()
    client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    client.setblocking(False)
    await loop.sock_sendall(client, b"CONNECT {}\r\nSUB " + subject.encode() + b" 1\r\nPING\r\n")
    greeting = b""
    while not greeting.endswith(b"PONG\r\n"):
        greeting += await loop.sock_recv(client, 4096)
    return client


ODD = [
    (b"\xff", b"", b"x"),
    (b"good", b"\xff\xfe", b"x"),
    (b"a\x0bb", b"", b"x"),
    (b"\x0c", b"", b"x"),
    (b"a\x0bb", b"reply", b"x" * 5000),
    (b"a\x0b3", b"\x0b", b"x" * 5000),
]


async def test_whatever_a_publisher_takes_for_a_subject_costs_nobody_his_connection(
    tasks: Tasks, nats_server: str
) -> None:
    link = await NatsLink.connect(options(nats_server), tasks=tasks)
    received = Received()
    await link.subscribe("test.odd.>", received)
    await link.flush()
    address = urlsplit(nats_server)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    with contextlib.closing(writer):
        writer.write(b'CONNECT {"verbose": false, "pedantic": false}\r\n')
        for subject, reply, payload in ODD:
            frame = (subject, reply, len(payload), payload)
            writer.write(b"PUB test.odd.%b %b %d\r\n%b\r\n" % frame)
        writer.write(b"PING\r\n")
        async with asyncio.timeout(PATIENCE_S):
            while await reader.readline() != b"PONG\r\n":
                pass
    await link.publish("test.odd.last", b"last")
    await received.at_least(len(ODD) + 1)

    assert [len(payload) for payload in received.payloads] == [1, 1, 1, 1, 5000, 5000, 4]
    assert link.counters.reconnects == 0
