"""The pods of an overlay, run from their manifests as processes: they find one another, probes tell
what they should, a chat is answered, and they end within their grace."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.deploy.cluster_credentials import make_credentials, secrets_of
from tests.deploy.manifests import render
from tests.deploy.pod_processes import Machine, Pod, running

# Quick, and without a model; everything else is as the manifests say.
EMULATED: Final = {
    "scheduler": {},
    "verifier": {"SPECEDGE_ENGINE": "emulated"},
    "edge": {"SPECEDGE_MODEL": "emulated", "SPECEDGE_DRAFTER": "prompt-lookup"},
}
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture
async def machine(tmp_path: Path) -> Machine:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    make_credentials(credentials)
    return Machine(render("dev-cpu"), secrets_of(credentials), tmp_path / "pods")


@pytest.fixture
async def pods(machine: Machine) -> AsyncIterator[dict[str, Pod]]:
    """All of them, started in no order, ready."""
    machine.folder.mkdir()
    async with AsyncExitStack() as stack:
        started = {
            name: await stack.enter_async_context(running(machine, name, overrides))
            for name, overrides in {**EMULATED, "nats": {}}.items()
        }
        async with asyncio.timeout(60):
            for pod in started.values():
                await pod.until("readinessProbe")
        yield started


async def test_pods_of_the_small_overlay_answer_a_chat_and_leave_in_order(
    pods: dict[str, Pod], machine: Machine
) -> None:
    key = machine.secrets["edge-credentials"]["api-key"].decode().strip()
    asked = {"model": "emulated", "messages": [{"role": "user", "content": "Hello"}]}
    async with httpx.AsyncClient(base_url=pods["edge"].url(), timeout=30) as client:
        refused = await client.post("/v1/chat/completions", json=asked)
        answered = await client.post(
            "/v1/chat/completions",
            json={**asked, "max_tokens": 16},
            headers={"Authorization": f"Bearer {key}"},
        )

    assert refused.status_code == 401
    assert answered.status_code == 200
    assert answered.json()["usage"]["completion_tokens"] == 16
    for pod in pods.values():
        assert [await pod.probe(kind) for kind in PROBES] == [True, True, True]
    for name in ("edge", "verifier", "scheduler", "nats"):
        assert await pods[name].stop() == 0, name


async def test_without_its_broker_a_pod_is_not_ready_but_neither_dead_nor_unstarted(
    pods: dict[str, Pod],
) -> None:
    await pods["nats"].stop()

    for name in EMULATED:
        async with asyncio.timeout(30):
            while await pods[name].probe("readinessProbe"):
                await asyncio.sleep(0.05)
        assert await pods[name].probe("startupProbe")
        assert await pods[name].probe("livenessProbe")
