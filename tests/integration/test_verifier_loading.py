"""What a verifier says of itself before its model is there."""

import asyncio
from threading import Event
from typing import Any

import httpx
import pytest

from specedge.service.runtime import service_context
from specedge_verifier import app
from specedge_verifier.config import VerifierSettings
from specedge_verifier.engines import load_engine
from tests.reserved_ports import ReservedPorts


async def test_nobody_is_alerted_of_a_connection_that_a_loading_verifier_does_not_want_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model takes minutes to load, an hour to fetch; and a broker that is away is told of."""
    may_end = Event()

    def slowly(*arguments: Any) -> Any:
        may_end.wait()
        return load_engine(*arguments)

    monkeypatch.setattr(app, "load_engine", slowly)
    with ReservedPorts() as free:
        nobodys_url = f"nats://127.0.0.1:{free.another()}"
        settings = VerifierSettings(
            engine="emulated", nats_url=nobodys_url, http_port=free.another()
        )
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{settings.http_port}",
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),  # an idle one is hung up on
        )
        async with service_context() as context, client:
            context.tasks.start(app.run(settings, "one", context), name="verifier")
            try:
                await until_said(client, "/started", '"starting"')
                while_loading = (await client.get("/metrics")).text
            finally:
                may_end.set()
            await until_said(client, "/started", '"started"')
            once_loaded = (await client.get("/metrics")).text

    assert "specedge_nats_connected 0.0" not in while_loading
    assert "specedge_nats_connected 0.0" in once_loaded


async def until_said(client: httpx.AsyncClient, path: str, wanted: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                said = (await client.get(path)).text
            except httpx.ConnectError:
                said = ""
            if wanted in said:
                return
            await asyncio.sleep(0.01)
