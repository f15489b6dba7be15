"""The secrets that pods name: made by `specedge creds init` and kustomize, and what pods need."""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from specedge.credentials.nkey import UserKey
from specedge.ids import SchedulerId, VerifierId
from specedge.link.broker import find_broker_binary
from specedge.protocol import subjects
from tests.deploy.cluster_credentials import FOLDER, Secrets, make_credentials, secrets_of
from tests.deploy.manifests import K8S, REPOSITORY, VARIANTS, render

# Of others: the operator may bring it.
FOREIGN: Final = {"hf-token"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("credentials")
    make_credentials(folder)
    return folder


@pytest.fixture(scope="module")
def secrets(made: Path) -> Secrets:
    return secrets_of(made)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_name_secrets_and_keys_that_are_made(variant: str, secrets: Secrets) -> None:
    for name, key in _references(variant):
        if name not in FOREIGN:
            assert key in secrets[name], (name, key)


def test_no_secret_is_made_that_nobody_names(secrets: Secrets) -> None:
    named = {reference for variant in VARIANTS for reference in _references(variant)}

    assert {(name, key) for name, keys in secrets.items() for key in keys} <= named


def test_the_brokers_configuration_is_what_the_command_writes(made: Path) -> None:
    written = (made / "folder/broker/nats-server.conf").read_text()

    assert written == (K8S / "base/nats/nats-server.conf").read_text()


def test_the_broker_accepts_its_configuration(made: Path, secrets: Secrets, tmp_path: Path) -> None:
    """Laid out as the pod's folder is: the ConfigMap's file and the secret's in one place."""
    for key, content in secrets["broker-credentials"].items():
        (tmp_path / key).write_bytes(content)
    config = (K8S / "base/nats/nats-server.conf").read_text()
    config = config.replace("/etc/nats/", f"{tmp_path}/").replace('"/data"', f'"{tmp_path}/data"')
    (tmp_path / "nats-server.conf").write_text(config)

    command = [find_broker_binary(), "-t", "-c", str(tmp_path / "nats-server.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 0, done.stderr


def test_each_pod_may_say_what_its_service_says_and_is_known_by_its_key(secrets: Secrets) -> None:
    users = secrets["broker-credentials"]["users.conf"].decode()

    for pod in render("gpu").workload("verifier").pod_names:
        key = _public(secrets["verifier-credentials"][f"{pod}.nk"])
        assert subjects.all_work(VerifierId(pod)) in _entry(users, key)
        assert f"se.ver.{pod}.>" in _entry(users, key)
    scheduler = SchedulerId("scheduler-1")
    entry = _entry(users, _public(secrets["scheduler-credentials"]["identity.nk"]))
    assert subjects.ALL_UP in entry and f"se.sch.{scheduler}.>" in entry
    for pod in render("gpu").workload("edge").pod_names:
        key = _public(secrets["edge-credentials"][f"{pod}.nk"])
        assert f"se.up.{key}.>" in _entry(users, key)


def test_the_folder_never_gets_into_the_repository() -> None:
    asked = ["git", "check-ignore", "-q", f"{FOLDER}/authority/ca.key"]

    assert subprocess.run(asked, cwd=REPOSITORY, check=False, timeout=100).returncode == 0


def _references(variant: str) -> set[tuple[str, str]]:
    """(secret, key) for every file and variable that a pod takes from a secret."""
    rendered = render(variant)
    found: set[tuple[str, str]] = set()
    for workload in rendered.workloads:
        for volume in workload.pod["volumes"]:
            for name, items in _secret_sources(volume):
                if items is None:
                    mounts = workload.container["volumeMounts"]
                    mine = [m for m in mounts if m["name"] == volume["name"]]
                    found |= {(name, key) for m in mine for key in _keys(m, workload.pod_names)}
                else:
                    found |= {(name, item["key"]) for item in items}
        for variable in workload.container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                found.add((reference["name"], reference["key"]))
    return found


def _secret_sources(volume: dict[str, Any]) -> list[tuple[str, list[dict[str, str]] | None]]:
    if "secret" in volume:
        return [(volume["secret"]["secretName"], volume["secret"].get("items"))]
    sources = volume.get("projected", {}).get("sources", [])
    held = [source["secret"] for source in sources if "secret" in source]
    return [(secret["name"], secret["items"]) for secret in held]


def _keys(mount: dict[str, Any], pods: tuple[str, ...]) -> list[str]:
    if "subPathExpr" in mount:
        return [re.sub(r"\$\(\w+\)", pod, mount["subPathExpr"]) for pod in pods]
    return [mount["subPath"]]


def _public(seed: bytes) -> str:
    return UserKey.from_seed(seed.decode()).public_key


def _entry(users: str, public_key: str) -> str:
    """The line or block of one user."""
    start = users.index(public_key)
    following = re.search(r"\bnkey\b", users[start:])
    return users[start : start + following.start()] if following else users[start:]
