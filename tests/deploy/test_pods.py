"""The pods of an overlay, run from their manifests as processes: they find one another, probes tell
what they should, a chat is answered, a rollout loses nothing, and they end within their grace."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.deploy.cluster_credentials import make_credentials, secrets_of
from tests.deploy.manifests import render
from tests.deploy.pod_processes import Machine, Pod, running
from tests.reserved_ports import ReservedPorts

pytestmark = pytest.mark.timeout(600)  # dozens of processes start, one after the other

# Quick, and without a model; everything else is as the manifests say.
EMULATED: Final[Mapping[str, Mapping[str, str]]] = {
    "nats": {},
    "scheduler": {},
    "verifier": {"SPECEDGE_ENGINE": "emulated", "SPECEDGE_EMULATED_STEP_MS": "30"},
    "edge": {"SPECEDGE_MODEL": "emulated", "SPECEDGE_DRAFTER": "prompt-lookup"},
}
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
LONG_TOKENS: Final = 200


@dataclass(frozen=True, slots=True)
class Cluster:
    """Running pods, by their workload's name, and how more are started."""

    machine: Machine
    pods: dict[str, Pod]
    stack: AsyncExitStack

    async def start(self, name: str) -> None:
        """Start a pod, as after its predecessor's end; returns when it has started."""
        self.pods[name] = await self.stack.enter_async_context(
            running(self.machine, name, EMULATED[name])
        )

    async def ready(self) -> None:
        """Until all of them are."""
        async with asyncio.timeout(200):
            for pod in self.pods.values():
                await pod.until("readinessProbe")

    async def ask(self, num_tokens: int, *, key: str | None = None) -> httpx.Response:
        """A chat. Without ``key``, with the one in the secret."""
        if key is None:
            key = self.machine.secrets["edge-credentials"]["api-key"].decode().strip()
        asked = {
            "model": "emulated",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": num_tokens,
            "temperature": 0,
        }
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=self.pods["edge"].url(), timeout=300) as client:
            return await client.post("/v1/chat/completions", json=asked, headers=headers)

    async def metric(self, pod: str, name: str) -> float:
        """The value of a metric without labels."""
        async with httpx.AsyncClient(timeout=60) as client:
            lines = (await client.get(self.pods[pod].url() + "/metrics")).text.splitlines()
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        return float(line.split()[1])


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """The small overlay's pods, started in no order, ready."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    make_credentials(credentials)
    folder = tmp_path / "pods"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        free = stack.enter_context(ReservedPorts())
        machine = Machine(render("dev-cpu"), secrets_of(credentials), folder, free)
        cluster = Cluster(machine, {}, stack)
        for name in reversed(EMULATED):
            await cluster.start(name)
        await cluster.ready()
        yield cluster


async def test_pods_answer_a_chat_to_who_has_the_key_and_leave_in_order(cluster: Cluster) -> None:
    refused = await cluster.ask(16, key="guessed")
    answered = await cluster.ask(16)

    assert refused.status_code == 401
    assert answered.status_code == 200
    assert answered.json()["usage"]["completion_tokens"] == 16
    for pod in cluster.pods.values():
        assert [await pod.probe(kind) for kind in PROBES] == [True, True, True]
    for name in reversed(EMULATED):
        assert await cluster.pods[name].stop() == 0, name


async def test_without_its_broker_a_pod_is_not_ready_but_neither_dead_nor_unstarted(
    cluster: Cluster,
) -> None:
    await cluster.pods.pop("nats").stop()

    for name in tuple(cluster.pods):
        await _assert_waiting(cluster.pods[name])
        assert await cluster.pods[name].stop() == 0
        await cluster.start(name)  # at the worst time, as on another node
        await _assert_waiting(cluster.pods[name])


async def test_a_rollout_of_everything_under_an_answer_changes_no_token(cluster: Cluster) -> None:
    undisturbed = (await cluster.ask(LONG_TOKENS)).json()
    answer = asyncio.ensure_future(cluster.ask(LONG_TOKENS))
    await _until_tokens(cluster, 5)

    for name in ("verifier", "scheduler", "nats"):
        assert await cluster.pods[name].stop() == 0
        await cluster.start(name)
        await cluster.ready()
        assert not answer.done(), "the answer ended before the rollout did: it must be longer"
    leaving = asyncio.ensure_future(cluster.pods["edge"].stop())  # an edge lets answers end
    disturbed = (await answer).json()

    assert await leaving == 0
    assert disturbed["usage"]["completion_tokens"] == LONG_TOKENS
    assert disturbed["choices"] == undisturbed["choices"]


async def _assert_waiting(pod: Pod) -> None:
    """It has started, or soon has, takes no work, and lives."""
    async with asyncio.timeout(100):
        await pod.until("startupProbe")
        while await pod.probe("readinessProbe"):
            await asyncio.sleep(0.05)
    assert await pod.probe("startupProbe")
    assert await pod.probe("livenessProbe")


async def _until_tokens(cluster: Cluster, more: int) -> None:
    """Until the verifier has generated that many more than now."""
    name = "specedge_generation_tokens_total"
    before = await cluster.metric("verifier", name)
    async with asyncio.timeout(100):
        while await cluster.metric("verifier", name) < before + more:
            await asyncio.sleep(0.02)
