"""How large a round of 32 nodes is: as NATS payload, and in bytes on the edge's socket.

Figures: ``round_up_payload_bytes``, ``round_down_payload_bytes`` (the bodies as published),
``round_up_socket_bytes``, ``round_down_socket_bytes`` (with subject and framing of NATS, counted by
a relay between the edge's link and a real broker; TCP and IP headers not included). The ids are
from a vocabulary of 151 936, so most take six digits; the path is half as long as the tree is deep.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import numpy as np

from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.link.broker import Broker
from specedge.link.nats import NatsLink, NatsOptions
from specedge.protocol import subjects
from specedge.protocol.codec import encode
from specedge.protocol.messages import Draft, Timing, Verdict
from specedge.service.runtime import Tasks

NODES: Final = 32
VOCAB_SIZE: Final = 151_936
PATH: Final = 4
KEY: Final = SessionKey(EdgeId("U" + "A" * 55), SessionId("0123456789abcdef" * 2))


class Relay:
    """Passes bytes between one client and the broker, and counts them."""

    def __init__(self) -> None:
        self.up = 0
        self.down = 0

    @contextlib.asynccontextmanager
    async def between(self, broker_port: int) -> AsyncIterator[int]:
        """The port to connect to instead of the broker's."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", broker_port)
            await asyncio.gather(
                self._pump(reader, to_writer, "up"), self._pump(to_reader, writer, "down")
            )

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            yield server.sockets[0].getsockname()[1]

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        while chunk := await reader.read(65536):
            setattr(self, way, getattr(self, way) + len(chunk))
            writer.write(chunk)
        writer.close()


def run() -> dict[str, float]:
    """Measure once: sizes do not vary."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, float]:
    up, down = encode(_draft()), encode(_verdict())
    relay = Relay()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Broker(store_dir=Path(folder)) as broker,
            relay.between(broker.port) as port,
            Tasks() as tasks,
        ):
            edge = await NatsLink.connect(_options(f"nats://127.0.0.1:{port}", "edge"), tasks=tasks)
            cloud = await NatsLink.connect(_options(broker.url, "cloud"), tasks=tasks)
            arrived = asyncio.Event()
            await cloud.subscribe(subjects.ALL_UP, lambda _: arrived.set())
            up_socket = await _counted(
                relay, "up", edge, subjects.up_draft(KEY, "main"), up, arrived
            )
            arrived = asyncio.Event()
            await edge.subscribe(subjects.down_all_sessions(KEY.edge), lambda _: arrived.set())
            down_socket = await _counted(
                relay, "down", cloud, subjects.down_session(KEY), down, arrived
            )
            await edge.close()
            await cloud.close()
    return {
        "round_up_payload_bytes": len(up),
        "round_down_payload_bytes": len(down),
        "round_up_socket_bytes": up_socket,
        "round_down_socket_bytes": down_socket,
    }


async def _counted(
    relay: Relay, way: str, link: NatsLink, subject: str, payload: bytes, arrived: asyncio.Event
) -> int:
    before = int(getattr(relay, way))
    await link.publish(subject, payload)
    async with asyncio.timeout(5):
        await arrived.wait()
    return int(getattr(relay, way)) - before


def _options(url: str, name: str) -> NatsOptions:
    return NatsOptions(servers=(url,), name=name, ping_interval_s=60)


def _draft() -> Draft:
    rng = np.random.default_rng(7)
    parents = [-1, *(int(rng.integers(-1, node)) for node in range(1, NODES))]
    return Draft(
        round=118,
        at="verifier-1",
        base=2048,
        hash="9f2c4e1ab0d37758",
        token=tuple(int(t) for t in rng.integers(0, VOCAB_SIZE, NODES)),
        parent=tuple(parents),
        budget_ms=600,
    )


def _verdict() -> Verdict:
    rng = np.random.default_rng(8)
    return Verdict(
        round=118,
        at="verifier-1",
        path=tuple(int(t) for t in rng.integers(0, VOCAB_SIZE, PATH)),
        bonus=int(rng.integers(0, VOCAB_SIZE)),
        kept=NODES,
        base=2048 + PATH + 1,
        hash="4b81d0c76fe2a935",
        timing=Timing(held=12.345, queue=3.217, step=31.904, rows=264),
    )
