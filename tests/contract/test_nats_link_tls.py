"""The link over NATS under TLS: whom it trusts, and networks that go away."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from specedge.credentials.nkey import UserKey
from specedge.errors import LinkDown
from specedge.link.base import LinkState
from specedge.link.broker import Broker
from specedge.link.nats import NatsLink
from specedge.service.runtime import Tasks
from tests.contract.certificates import make_authority
from tests.contract.fake_brokers import BRIEF, INFO, fake_broker, options
from tests.contract.link_networks import IN_TIME_S, Received, States


async def test_tls_is_spoken_with_a_broker_that_the_authority_vouches_for(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours = make_authority(tmp_path, "ours")
    async with Broker(store_dir=tmp_path / "broker", tls=ours.tls) as broker:
        link = await NatsLink.connect(options(broker.url, tls_ca_file=ours.ca_file), tasks=tasks)
        received = Received()
        await link.subscribe("test.tls", received)

        for _ in range(20):  # more than the reader's buffer holds
            await link.publish("test.tls", bytes(100_000))

        await received.at_least(20)
        await link.close()
    assert broker.url.startswith("tls://")


async def test_a_broker_that_another_authority_vouches_for_is_refused_in_time(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours, theirs = make_authority(tmp_path, "ours"), make_authority(tmp_path, "theirs")
    async with Broker(store_dir=tmp_path / "broker", tls=theirs.tls) as broker:
        started = time.monotonic()
        with pytest.raises(LinkDown, match="certificate verify failed"):
            await NatsLink.connect(
                options(broker.url, tls_ca_file=ours.ca_file, recovery=BRIEF), tasks=tasks
            )

    assert time.monotonic() - started < IN_TIME_S


async def test_no_credentials_go_to_a_broker_that_offers_no_tls_where_it_is_wanted(
    tasks: Tasks,
) -> None:
    heard: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO.replace(b"}", b',"nonce":"abc","auth_required":true}'))
        heard.append(await reader.read())

    async with fake_broker(speak) as url:
        secret = UserKey.create().seed
        with pytest.raises(LinkDown, match="secure connection"):
            await NatsLink.connect(
                options(url.replace("nats:", "tls:"), seed=secret, recovery=BRIEF), tasks=tasks
            )

    assert set(heard) == {b""}


async def test_losing_the_network_under_tls_costs_no_half_minute(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours = make_authority(tmp_path, "ours")
    async with Broker(store_dir=tmp_path / "broker", tls=ours.tls) as broker:
        link = await NatsLink.connect(
            options(
                broker.url,
                tls_ca_file=ours.ca_file,
                ping_interval_s=0.1,
                max_outstanding_pings=1,
                connect_timeout_s=0.5,
            ),
            tasks=tasks,
        )
        states = States(link)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await states.until(LinkState.DISCONNECTED)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        started = time.monotonic()
        await states.until(LinkState.CONNECTED)

        assert time.monotonic() - started < IN_TIME_S
        await link.close()


async def test_closing_under_tls_towards_a_dead_network_is_bounded(
    tasks: Tasks, tmp_path: Path
) -> None:
    ours = make_authority(tmp_path, "ours")
    async with Broker(store_dir=tmp_path / "broker", tls=ours.tls) as broker:
        link = await NatsLink.connect(options(broker.url, tls_ca_file=ours.ca_file), tasks=tasks)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            await link.close()
            assert time.monotonic() - started < IN_TIME_S
        finally:
            os.kill(broker.pid, signal.SIGCONT)
