"""Runs a rendered workload's first pod as a plain process: a kubelet in miniature.

The container's command, environment, files and probes are those of the manifest, but for: paths lie
below a folder of the pod's own, ports are free ones of this machine, and names of services are
localhost. Users and capabilities are not tried here: containers are.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from specedge.link.broker import find_broker_binary
from tests.deploy.cluster_credentials import Secrets
from tests.deploy.manifests import Rendered, Workload
from tests.deploy.pod_volumes import Volumes
from tests.reserved_ports import ReservedPorts

POLL_S: Final = 0.05
HOST: Final = "localhost"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where pods run: the manifests, the secrets, and a free port for each container port."""

    rendered: Rendered
    secrets: Secrets
    folder: Path
    free: ReservedPorts
    ports: dict[tuple[str, int], int] = field(default_factory=dict)

    def port(self, workload: str, container_port: int) -> int:
        """The stand-in of a container's port."""
        if (workload, container_port) not in self.ports:
            self.ports[workload, container_port] = self.free.another()
        return self.ports[workload, container_port]


@dataclass(frozen=True, slots=True)
class Pod:
    """A running pod."""

    machine: Machine
    workload: Workload
    process: asyncio.subprocess.Process

    def url(self, port: str = "http") -> str:
        """Of a named port."""
        number = self.machine.port(self.workload.name, self.workload.ports[port])
        return f"http://{HOST}:{number}"

    async def probe(self, kind: str) -> bool:
        """Ask what a probe of the manifest asks."""
        wanted = self.workload.container[kind]["httpGet"]
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(self.url(wanted["port"]) + wanted["path"])
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async def until(self, kind: str) -> None:
        """Until that probe succeeds; fails the test if the process ends before."""
        succeeded = False
        while not succeeded:
            succeeded = await self.probe(kind)
            assert self.process.returncode is None, f"{self.workload.name} ended"
            await asyncio.sleep(0 if succeeded else POLL_S)

    async def stop(self) -> int:
        """SIGTERM, and the exit code; TimeoutError if the grace period is over before."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(self.workload.pod["terminationGracePeriodSeconds"]):
            return await self.process.wait()


@asynccontextmanager
async def running(
    machine: Machine, name: str, overrides: Mapping[str, str] | None = None
) -> AsyncIterator[Pod]:
    """The first pod of workload ``name``, with some variables changed; killed at the end if it
    still runs."""
    workload = machine.rendered.workload(name)
    root = machine.folder / name
    _lay_out(machine, workload, root)
    told = machine.rendered.environment(workload) | dict(overrides or {})
    environment = {key: _moved(machine, workload, root, value) for key, value in told.items()}
    if "http" in workload.ports:
        environment["SPECEDGE_HTTP_PORT"] = str(machine.port(name, workload.ports["http"]))
    with (machine.folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *_command(machine, workload, root),
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": str(root), **environment},
            cwd=root,
        )
    try:
        yield Pod(machine, workload, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _command(machine: Machine, workload: Workload, root: Path) -> list[str]:
    given: list[str] = workload.container.get("command", [])
    if not given:  # the image's own
        return [sys.executable, "-m", f"specedge_{workload.name}"]
    assert given[0] == "nats-server"
    return [find_broker_binary(), *(_moved(machine, workload, root, word) for word in given[1:])]


def _lay_out(machine: Machine, workload: Workload, root: Path) -> None:
    """Every mount of the container, below ``root``."""
    volumes = Volumes(machine.rendered, machine.secrets, workload)
    for mount in workload.container["volumeMounts"]:
        target = root / mount["mountPath"].lstrip("/")
        files = volumes.files_of(mount)
        if (part := volumes.part_of(mount)) is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files[part])
            continue
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            moved = _moved(machine, workload, root, content.decode())
            (target / name).write_text(moved)


def _moved(machine: Machine, workload: Workload, root: Path, text: str) -> str:
    """``text`` with the paths, ports and names of this machine."""
    paths = "|".join(re.escape(m["mountPath"]) for m in workload.container["volumeMounts"])
    text = re.sub(rf"(?<![\w/.])({paths})(?![\w-])", lambda path: f"{root}{path[1]}", text)
    for port in machine.rendered.workload("nats").ports.values():
        text = text.replace(f"0.0.0.0:{port}", f"{HOST}:{machine.port('nats', port)}")
        text = text.replace(f"nats:{port}", f"{HOST}:{machine.port('nats', port)}")
    return text
