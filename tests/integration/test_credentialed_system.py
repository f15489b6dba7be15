"""The whole system on a generated broker: over TLS, each process with its own credentials."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from specedge.credentials import folder
from tests.generated_broker import (
    GeneratedBroker,
    Names,
    generated_broker,
    make_credentials,
    open_folder,
)
from tests.integration.test_cloud_processes import Running, running

pytestmark = pytest.mark.timeout(600)  # processes start slowly where others compute too

CHAT = {
    "model": "emulated",
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 24,
    "temperature": 0,
}
NOTHING_DENIED = 'specedge_nats_errors_total{kind="permission_denied"} 0.0'
PROCESSES = {
    "scheduler-1": ("specedge_scheduler", ()),
    "verifier-1": ("specedge_verifier", ("--engine", "emulated")),
    "alice": ("specedge_edge", ("--model", "emulated", "--drafter", "emulated")),
    "bob": ("specedge_edge", ("--model", "emulated", "--drafter", "none")),
}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[GeneratedBroker]:
    root, names = tmp_path / "credentials", Names(("alice", "bob"), ())
    alices = str(root / "edges" / "alice")
    make_credentials(root, names, edge_dir=alices, websocket="127.0.0.1:-1")
    with generated_broker(root) as running_broker:
        # Only now its port is known; what edges read has to name it.
        make_credentials(root, names, url=running_broker.url)
        yield running_broker


@asynccontextmanager
async def system(broker: GeneratedBroker, cwd: Path) -> AsyncIterator[dict[str, Running]]:
    """All processes, ready; each knows its own folder and nothing else."""
    async with AsyncExitStack() as stack:
        entered = [stack.enter_async_context(_running(broker, name, cwd)) for name in PROCESSES]
        started = dict(zip(PROCESSES, await asyncio.gather(*entered), strict=True))
        for process in started.values():
            await process.ready()
        yield started


def _running(broker: GeneratedBroker, name: str, cwd: Path) -> AbstractAsyncContextManager[Running]:
    module, flags = PROCESSES[name]
    credentials = [part for pair in _settings(broker, name).items() for part in pair]
    return running(module, "--http-port", "0", *flags, *credentials, cwd=cwd)


def _settings(broker: GeneratedBroker, name: str) -> dict[str, str]:
    """As flags. Alice's are those of her edge.env, word for word; Bob comes over WebSocket."""
    home = broker.home(name)
    settings = {
        "--nats-url": broker.websocket_url if name == "bob" else broker.url,
        "--nats-ca-file": str(home / folder.CA),
        "--identity-file": str(home / folder.IDENTITY),
    }
    if name == "bob":
        settings["--api-key-file"] = str(home / folder.API_KEY)
    if name == "alice":
        lines = (home / folder.EDGE_ENV).read_text().splitlines()
        pairs = (line.split("=", 1) for line in lines if not line.startswith("#"))
        settings = {_flag(variable): value for variable, value in pairs}
    return settings


def _flag(variable: str) -> str:
    return "--" + variable.removeprefix("SPECEDGE_").lower().replace("_", "-")


async def _chat(
    client: httpx.AsyncClient, broker: GeneratedBroker, name: str, edge: Running
) -> str:
    """One chat with the edge's own key; its text."""
    api_key = (broker.home(name) / folder.API_KEY).read_text().strip()
    headers = {"Authorization": f"Bearer {api_key}"}
    url = f"{edge.url}/v1/chat/completions"
    answer = await client.post(url, json=CHAT, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == CHAT["max_tokens"]
    return str(answer.json()["choices"][0]["message"]["content"])


async def test_it_answers_who_has_the_key_and_a_removed_edge_is_out(
    broker: GeneratedBroker, tmp_path: Path
) -> None:
    async with system(broker, tmp_path) as processes, httpx.AsyncClient() as client:
        alice, bob = processes["alice"], processes["bob"]

        without_key = await client.post(f"{alice.url}/v1/chat/completions", json=CHAT)
        texts = [
            await _chat(client, broker, "alice", alice),
            await _chat(client, broker, "bob", bob),
        ]

        assert without_key.status_code == 401
        assert texts[0] == texts[1]
        for process in processes.values():
            assert NOTHING_DENIED in await process.text("/metrics")

        open_folder(broker.root).remove("alice")
        await asyncio.to_thread(broker.reload)

        assert await alice.process.wait() == 1  # whoever started it may start it again
        assert await _chat(client, broker, "bob", bob) == texts[1]
