"""A project of Docker Compose, as a test starts, asks and removes one."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import compose

ROOT: Final = Path(__file__).parents[2]
# Compose's binary as the development requirements bring it; the package's own command hides exit
# codes.
BINARY: Final = Path(compose.__path__[0]) / "docker-compose"
PROJECT_LABEL: Final = "com.docker.compose.project"
KEPT_VARIABLES: Final = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_BUILDKIT")
KINDS: Final = ("container", "network", "volume")


def has_engine() -> bool:
    """Whether a Docker engine answers here."""
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def docker(*arguments: str, timeout_s: float = 60, check: bool = True) -> str:
    """What a ``docker`` command prints; one that fails fails the test, with its words."""
    return _run(["docker", *arguments], timeout_s=timeout_s, check=check).stdout


@dataclass(frozen=True, slots=True)
class Project:
    """A Compose project under a name of its own. No ``.env`` of the tree is read: ``settings``, and
    what ``env_file`` has, are all that it is told."""

    name: str
    files: tuple[Path, ...] = (ROOT / "docker-compose.yml",)
    settings: Mapping[str, str] = field(default_factory=dict)
    env_file: Path = Path(os.devnull)

    def run(self, *arguments: str, timeout_s: float = 60, check: bool = True) -> str:
        """What ``docker compose ARGUMENTS`` prints to stdout."""
        return self.run_fully(*arguments, timeout_s=timeout_s, check=check).stdout

    def run_fully(
        self, *arguments: str, timeout_s: float = 60, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """The same, with stderr and the exit code."""
        command = [str(BINARY), "--project-name", self.name, "--env-file", str(self.env_file)]
        for path in self.files:
            command += ["--file", str(path)]
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        environment |= self.settings
        return _run([*command, *arguments], timeout_s=timeout_s, check=check, env=environment)

    def container_id(self, service: str) -> str:
        """Of the one container of ``service``."""
        ids = self.run("ps", "--all", "--quiet", service).split()
        assert len(ids) == 1, f"{service} has containers {ids}"
        return ids[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of the service's container."""
        described: dict[str, Any] = json.loads(docker("inspect", self.container_id(service)))[0]
        return described

    def copy_out(self, service: str, source: str, target: Path) -> None:
        """A file or folder of the service's container, running or not."""
        docker("cp", f"{self.container_id(service)}:{source}", str(target))

    def left(self) -> dict[str, list[str]]:
        """What the engine still has of this project, by kind; empty after a ``down --volumes``."""
        found = {}
        for kind in KINDS:
            every = ["--all"] if kind == "container" else []
            wanted = f"label={PROJECT_LABEL}={self.name}"
            if ids := docker(kind, "ls", *every, "--quiet", "--filter", wanted).split():
                found[kind] = ids
        return found

    def remove(self) -> None:
        """Everything of it, volumes too."""
        self.run("--profile", "*", "down", "--volumes", "--remove-orphans", timeout_s=120)


def _run(
    command: list[str], *, timeout_s: float, check: bool, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout_s, env=env, cwd=ROOT
    )
    if check and done.returncode:
        said = f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done
