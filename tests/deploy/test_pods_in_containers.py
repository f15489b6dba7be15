"""The pods of the small overlay as containers, confined as their manifests say: `make test-pods`.

Needs a Docker engine and the images of docker-compose.yml.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.deploy.cluster_credentials import make_credentials, secrets_of
from tests.deploy.compose_project import docker, has_engine
from tests.deploy.manifests import render
from tests.deploy.pod_containers import ContainerPod, Engine, running
from tests.deploy.test_pods import EMULATED, PROBES

pytestmark = [
    pytest.mark.compose,
    pytest.mark.skipif(not has_engine(), reason="NOT TESTED: no Docker engine answers here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: giving files to root needs root"),
]

IN_ORDER: Final = ("nats", "scheduler", "verifier", "edge")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    credentials = tmp_path_factory.mktemp("credentials")
    make_credentials(credentials)
    rendered, network = render("dev-cpu"), f"specedge-pods-{secrets.token_hex(4)}"
    for workload in rendered.workloads:
        if not docker("image", "ls", "--quiet", workload.container["image"]).strip():
            pytest.skip(
                f"NOT TESTED: no image {workload.container['image']} (docker compose build)"
            )
    docker("network", "create", "--internal", network)
    try:
        yield Engine(rendered, secrets_of(credentials), tmp_path_factory.mktemp("pods"), network)
    finally:
        docker("network", "rm", network)


async def test_confined_pods_answer_a_chat_and_leave_in_order(engine: Engine) -> None:
    key = engine.secrets["edge-credentials"]["api-key"].decode().strip()
    asked = {"model": "emulated", "messages": [{"role": "user", "content": "Hello"}]}
    with ExitStack() as stack:
        pods: dict[str, ContainerPod] = {}
        async with asyncio.timeout(90):
            for name in IN_ORDER:
                pods[name] = stack.enter_context(running(engine, name, EMULATED[name]))
                await pods[name].until("startupProbe")
            for pod in pods.values():
                await pod.until("readinessProbe")

        async with httpx.AsyncClient(base_url=pods["edge"].url(), timeout=30) as client:
            answered = await client.post(
                "/v1/chat/completions",
                json={**asked, "max_tokens": 16},
                headers={"Authorization": f"Bearer {key}"},
            )
        asked_of_all = {
            name: [await pod.probe(kind) for kind in PROBES] for name, pod in pods.items()
        }
        codes = {name: pods[name].stop() for name in reversed(IN_ORDER)}

    assert answered.status_code == 200, answered.text
    assert answered.json()["usage"]["completion_tokens"] == 16
    assert all(all(answers) for answers in asked_of_all.values()), asked_of_all
    assert codes == dict.fromkeys(IN_ORDER, 0)


async def test_a_pod_whose_key_is_not_in_the_secret_says_so(engine: Engine, tmp_path: Path) -> None:
    """In a kubelet as here, a mount of a file that is not there is an empty folder."""
    others = {"verifier-1.nk": b"", "ca.pem": b""}
    lacking = {**engine.secrets, "verifier-credentials": others}

    there = replace(engine, secrets=lacking, folder=tmp_path)
    with running(there, "verifier", EMULATED["verifier"]) as pod:
        async with asyncio.timeout(60):
            while pod.inspected()["State"]["Running"]:
                await asyncio.sleep(0.2)

        assert pod.inspected()["State"]["ExitCode"] == 1
        assert "no usable key in /credentials/identity.nk" in pod.logs()
