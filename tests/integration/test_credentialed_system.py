"""The whole system on a generated broker: over TLS, each process with its own credentials."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
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
}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[GeneratedBroker]:
    root = tmp_path / "credentials"
    make_credentials(root, Names(("alice",), ()), edge_dir=str(root / "edges" / "alice"))
    with generated_broker(root) as running_broker:
        # Only now its port is known; what edges read has to name it.
        make_credentials(root, Names(("alice",), ()), url=running_broker.url)
        yield running_broker


@asynccontextmanager
async def system(broker: GeneratedBroker, cwd: Path) -> AsyncIterator[dict[str, Running]]:
    """All processes, ready; each knows its own folder and nothing else."""
    async with AsyncExitStack() as stack:
        started: dict[str, Running] = {}
        for name, (module, flags) in PROCESSES.items():
            settings = _settings(broker, name)
            credentials = [part for pair in settings.items() for part in pair]
            started[name] = await stack.enter_async_context(
                running(module, "--http-port", "0", *flags, *credentials, cwd=cwd)
            )
        for process in started.values():
            await process.ready()
        yield started


def _settings(broker: GeneratedBroker, name: str) -> dict[str, str]:
    """As flags. An edge's are those of its edge.env, word for word."""
    home = broker.home(name)
    if name != "alice":
        return {
            "--nats-url": broker.url,
            "--nats-ca-file": str(home / folder.CA),
            "--identity-file": str(home / folder.IDENTITY),
        }
    lines = (home / folder.EDGE_ENV).read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if not line.startswith("#"))
    return {f"--{key.removeprefix('SPECEDGE_').lower().replace('_', '-')}": v for key, v in pairs}


async def test_it_answers_a_chat_to_who_has_the_key_and_a_removed_edge_is_out(
    broker: GeneratedBroker, tmp_path: Path
) -> None:
    api_key = (broker.home("alice") / folder.API_KEY).read_text().strip()
    async with system(broker, tmp_path) as processes, httpx.AsyncClient() as client:
        edge = processes["alice"]
        url = f"{edge.url}/v1/chat/completions"

        refused = await client.post(url, json=CHAT)
        with_key = {"Authorization": f"Bearer {api_key}"}
        answered = await client.post(url, json=CHAT, headers=with_key, timeout=60)

        assert refused.status_code == 401
        assert answered.status_code == 200, answered.text
        assert answered.json()["usage"]["completion_tokens"] == 24
        for process in processes.values():
            assert NOTHING_DENIED in await process.text("/metrics")

        open_folder(broker.root).remove("alice")
        await asyncio.to_thread(broker.reload)

        while "turned this edge away" not in await edge.text("/ready"):
            await asyncio.sleep(0.05)
        assert (await client.get(f"{processes['verifier-1'].url}/ready")).status_code == 200
