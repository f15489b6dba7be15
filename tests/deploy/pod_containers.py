"""Runs a rendered workload's first pod as a container of a Docker engine: a kubelet in miniature.

User, groups, capabilities, read-only root, memory, mounts, environment and command are those of
the manifest; the engine's network gives Services their names. Volumes are as a kubelet makes them:
files of secrets belong to root and to the pod's group, and nobody else reads them.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.cluster_credentials import Secrets
from tests.deploy.compose_project import docker
from tests.deploy.manifests import Rendered, Workload, matches
from tests.deploy.pod_volumes import Volumes


@dataclass(frozen=True, slots=True)
class Engine:
    """Where pods run. ``network`` is theirs alone; files go below ``folder``."""

    rendered: Rendered
    secrets: Secrets
    folder: Path
    network: str


@dataclass(frozen=True, slots=True)
class ContainerPod:
    """A running container, by id."""

    workload: Workload
    container: str

    def inspected(self) -> dict[str, Any]:
        """What the engine knows of it."""
        (described,) = json.loads(docker("inspect", self.container))
        return dict(described)

    def url(self, port: str = "http") -> str:
        """Of a named port, from this machine."""
        (network,) = self.inspected()["NetworkSettings"]["Networks"].values()
        return f"http://{network['IPAddress']}:{self.workload.ports[port]}"

    async def probe(self, kind: str) -> bool:
        """Ask what a probe of the manifest asks."""
        wanted = self.workload.container[kind]["httpGet"]
        try:
            async with httpx.AsyncClient(timeout=5) as client:
                answer = await client.get(self.url(wanted["port"]) + wanted["path"])
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async def until(self, kind: str) -> None:
        """Until that probe succeeds; fails the test if the container ends before."""
        while not await self.probe(kind):
            assert self.inspected()["State"]["Running"], self.logs()
            await asyncio.sleep(0.2)

    def logs(self) -> str:
        """All that it said, wherever."""
        command = ["docker", "logs", self.container]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return said.stdout + said.stderr

    def stop(self) -> int:
        """SIGTERM, and SIGKILL when the grace is over; the exit code."""
        grace_s = self.workload.pod["terminationGracePeriodSeconds"]
        docker("stop", "--time", str(grace_s), self.container, timeout_s=grace_s + 30)
        code: int = self.inspected()["State"]["ExitCode"]
        return code


@contextmanager
def running(
    engine: Engine, name: str, overrides: Mapping[str, str] | None = None
) -> Iterator[ContainerPod]:
    """The first pod of workload ``name``, with some variables changed; removed at the end."""
    workload = engine.rendered.workload(name)
    container = docker("create", *_options(engine, workload, dict(overrides or {}))).strip()
    try:
        docker("start", container)
        yield ContainerPod(workload, container)
    finally:
        docker("rm", "--force", "--volumes", container)


def _options(engine: Engine, workload: Workload, overrides: dict[str, str]) -> list[str]:
    pod, container = workload.pod["securityContext"], workload.container
    options = ["--network", engine.network]
    for service in engine.rendered.of_kind("Service"):
        if matches({"matchLabels": service["spec"]["selector"]}, workload.labels):
            options += ["--network-alias", service["metadata"]["name"]]
    options += ["--user", f"{pod['runAsUser']}:{pod['runAsGroup']}"]
    options += ["--group-add", str(pod["fsGroup"])]
    options += ["--memory", container["resources"]["limits"]["memory"].replace("i", "").lower()]
    options += _confinement(container["securityContext"])
    for key, value in (engine.rendered.environment(workload) | overrides).items():
        options += ["--env", f"{key}={value}"]
    for mount in _mounts(engine, workload):
        options += ["--volume", mount]
    command: list[str] = container.get("command", [])
    if command:
        return [*options, "--entrypoint", command[0], container["image"], *command[1:]]
    return [*options, container["image"]]


def _confinement(context: dict[str, Any]) -> list[str]:
    options = ["--read-only"] if context["readOnlyRootFilesystem"] else []
    for capability in context["capabilities"]["drop"]:
        options += ["--cap-drop", capability]
    if not context["allowPrivilegeEscalation"]:
        options += ["--security-opt", "no-new-privileges:true"]
    return options


def _mounts(engine: Engine, workload: Workload) -> list[str]:
    """``source:target[:ro]`` for each mount of the container."""
    volumes = Volumes(engine.rendered, engine.secrets, workload)
    group = workload.pod["securityContext"]["fsGroup"]
    found = []
    for index, mount in enumerate(workload.container["volumeMounts"]):
        source = engine.folder / workload.name / str(index)
        part = volumes.part_of(mount)
        files = volumes.files_of(mount)
        source.mkdir(parents=True)
        for name, content in files.items():
            (source / name).write_bytes(content)
            os.chown(source / name, 0, group)
            (source / name).chmod(0o440)
        os.chown(source, 0, group)
        source.chmod(0o2775)
        shown = source if part is None else source / part
        found.append(f"{shown}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else ""))
    return found
