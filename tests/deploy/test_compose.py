"""`docker compose up` as a person runs it, on a real engine: `make test-compose`.

One cluster for all of it, from new volumes on: so the first start, with its fetch of the model, is
what comes up. The tests are in the order of a cluster's life; the last one ends it.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from tests.deploy.compose_project import ROOT, Project, docker, has_engine
from tests.reserved_ports import ReservedPorts

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not has_engine(), reason="NOT TESTED: no Docker engine answers here"),
]

MIB: Final = 1 << 20
HEALTHY_WITHIN_S: Final = 180
RESTARTED_WITHIN_S: Final = 120
PUBLIC_HOST: Final = "broker.test"
TO_THE_BROKER: Final = f"--add-host {PUBLIC_HOST}:host-gateway"
MODEL: Final = "SmolLM2-135M-Instruct"
SERVICES: Final = ("nats", "scheduler", "verifier", "edge")
JOBS: Final = ("volumes", "credentials")
HOME_UID: Final = 4321
# Run inside: what the container's first process has started dies as if by lack of memory.
KILL_THE_SERVICE: Final = """
import os, pathlib, signal
for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    if stat.read_text().rsplit(")", 1)[1].split()[1] == "1":
        os.kill(int(stat.parent.name), signal.SIGKILL)
"""
QUESTIONS: Final = (
    "Write a short story about a lighthouse keeper and a storm.",
    "Explain step by step how bread is baked.",
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running project, and how long it took from ``up`` to healthy. Seconds."""

    project: Project
    healthy_after_s: float

    @property
    def url(self) -> str:
        """Of the OpenAI API."""
        return f"http://127.0.0.1:{self.project.settings['SPECEDGE_API_PORT']}"

    @property
    def websocket_url(self) -> str:
        """What a home dials that nothing but HTTPS leaves."""
        return f"wss://{PUBLIC_HOST}:{self.project.settings['SPECEDGE_WEBSOCKET_PORT']}"

    def api_key(self) -> str:
        """As the README's ``curl`` reads it."""
        return self.project.run("exec", "-T", "edge", "cat", "/credentials/api-key").strip()

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.api_key(), max_retries=0, timeout=120
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    api, broker, websocket = free_ports(3)
    settings = {
        "SPECEDGE_API_PORT": str(api),
        "SPECEDGE_BROKER_PORT": str(broker),
        "SPECEDGE_WEBSOCKET_PORT": str(websocket),
        "SPECEDGE_PUBLIC_HOST": PUBLIC_HOST,
        "SPECEDGE_DTYPE": "fp32",
    }
    settings["SPECEDGE_PUBLIC_URL"] = f"tls://{PUBLIC_HOST}:{settings['SPECEDGE_BROKER_PORT']}"
    files = ("docker-compose.yml", "deploy/public-broker.yml", "deploy/public-websocket.yml")
    paths = tuple(ROOT / name for name in files)
    project = Project(f"specedge-test-{secrets.token_hex(4)}", paths, settings)
    try:
        project.run("build", timeout_s=900)
        began_s = time.monotonic()
        project.run("up", "--detach", "--wait", timeout_s=HEALTHY_WITHIN_S + 60)
        yield Cluster(project, time.monotonic() - began_s)
    except AssertionError:
        print(project.run("logs", "--tail", "30", check=False))
        raise
    finally:
        project.remove()


@pytest.fixture(scope="module")
def alice(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home edge, made and carried out as the README says."""
    project, folder = cluster.project, tmp_path_factory.mktemp("home") / "alice"
    project.run("run", "--rm", "credentials", "add-edge", "alice")
    project.run("exec", "-T", "nats", "nats-server", "--signal", "reload=1")
    project.run("cp", "credentials:/credentials/edges/alice", str(folder))
    return folder


def test_everything_is_healthy_within_three_minutes(cluster: Cluster) -> None:
    print(f"healthy after {cluster.healthy_after_s:.0f} s, the fetch of the model included")

    assert cluster.healthy_after_s < HEALTHY_WITHIN_S
    for service in SERVICES:
        state = cluster.project.inspect(service)["State"]
        assert (state["Status"], state["Health"]["Status"]) == ("running", "healthy"), service
    for job in JOBS:
        assert cluster.project.inspect(job)["State"]["ExitCode"] == 0, job


def test_services_came_up_one_after_the_other(cluster: Cluster) -> None:
    started = [
        cluster.project.inspect(service)["State"]["StartedAt"] for service in (*JOBS, *SERVICES)
    ]

    assert started == sorted(started)


def test_a_chat_streams_through_the_official_client(cluster: Cluster) -> None:
    client = cluster.client()
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 32,
    }

    chunks = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(stream=True, **asked)
        if chunk.choices
    ]
    whole = client.chat.completions.create(**asked)

    assert "Paris" in "".join(chunks)
    assert "".join(chunks) == whole.choices[0].message.content
    assert len([chunk for chunk in chunks if chunk]) > 1


def test_the_api_asks_for_the_key_that_was_made(cluster: Cluster) -> None:
    stranger = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="guessed", max_retries=0)

    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert [model.id for model in cluster.client().models.list()] == [MODEL]


def test_its_texts_are_those_of_the_plain_decoder(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "specedge.cli.main", "verify-lossless", "--dtype", "fp32"]
    command += ["--url", cluster.url, "--prompts", "4", "--tokens", "24", "--json"]
    environment = os.environ | {"SPECEDGE_API_KEY": cluster.api_key(), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=300
    )

    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert {run["temperature"] for run in runs} == {0.0, 0.8}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_is_no_root_and_can_do_and_write_nothing_more(
    cluster: Cluster, service: str
) -> None:
    described = cluster.project.inspect(service)
    host = described["HostConfig"]
    status = docker("exec", described["Id"], "cat", "/proc/1/status")
    of_process = dict(re.findall(r"^(\w+):\s+(.*)$", status, flags=re.MULTILINE))

    assert described["Config"]["User"] == "10001:10001"
    assert set(of_process["Uid"].split()) == {"10001"}
    assert host["ReadonlyRootfs"] is True and host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert [int(of_process[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0]
    assert of_process["NoNewPrivs"] == "1"
    assert host["Memory"] > 0 and host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    wrote = subprocess.run(
        ["docker", "exec", described["Id"], "touch", "/etc/x", "/credentials/x", "/usr/x"],
        capture_output=True,
        check=False,
    )
    assert wrote.returncode != 0
    for mount in described["Mounts"]:
        assert mount["RW"] is (mount["Destination"] in ("/data", "/var/cache/specedge")), mount


def test_a_service_sees_its_own_credentials_alone(cluster: Cluster) -> None:
    for service, secret in (("scheduler", 1), ("verifier", 1), ("edge", 2)):
        found = cluster.project.run(
            "exec", "-T", service, "find", "/credentials", "-type", "f", "-perm", "0600"
        )
        assert len(found.split()) == secret, found


def test_the_scheduler_reaches_the_broker_and_nothing_else(cluster: Cluster) -> None:
    networks = cluster.project.inspect("scheduler")["NetworkSettings"]["Networks"]

    assert list(networks) == [f"{cluster.project.name}_inside"]
    assert json.loads(docker("network", "inspect", *networks))[0]["Internal"] is True


def test_images_are_small_and_the_schedulers_has_no_torch(cluster: Cluster) -> None:
    base = image_bytes("python:3.11-slim-bookworm")
    over = {}
    for service in ("scheduler", "verifier", "edge"):
        image = cluster.project.inspect(service)["Config"]["Image"]
        over[service] = (image_bytes(image) - base) / MIB
        print(f"{image}: {over[service]:.0f} MiB over its base")
    find_torch = (
        "import importlib.util as i; print([n for n in ('torch', 'pip') if i.find_spec(n)])"
    )

    assert over["scheduler"] * MIB <= 250e6
    assert cluster.project.run("exec", "-T", "scheduler", "python", "-c", find_torch) == "[]\n"


@pytest.mark.parametrize("name", ["alice", "edge-1", "verifier-gpu"])
@pytest.mark.usefixtures("alice")
def test_credentials_reach_what_their_role_says_and_nothing_else(
    cluster: Cluster, name: str
) -> None:
    """Tried on the broker that runs, subject by subject."""
    asked = ["check", name, "--url", "tls://nats:4222", "--json"]

    said = json.loads(cluster.project.run("run", "--rm", "-T", "credentials", *asked))

    tried = {attempt["subject"]: attempt for attempt in said["attempts"]}
    assert {">", "_INBOX.>", "$SYS.>", "$JS.API.>", "se.dn.>", "se.up.>"} <= tried.keys()
    assert [attempt for attempt in said["attempts"] if attempt["did"] != attempt["should"]] == []
    assert said["strangers_refused"] is True


@pytest.mark.parametrize("way", ["documented line", "compose, over WebSocket"])
def test_an_edge_of_another_house_joins_over_tls_and_answers(
    cluster: Cluster, alice: Path, way: str
) -> None:
    by_line = way == "documented line"
    edge = edge_by_line(alice) if by_line else edge_by_compose(alice, cluster.websocket_url)
    with edge as url:
        key = (alice / "api-key").read_text().strip()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)
        asked: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 24}
        asked["messages"] = [{"role": "user", "content": QUESTIONS[1]}]

        theirs = client.chat.completions.create(**asked).choices[0].message.content

    assert theirs == cluster.client().chat.completions.create(**asked).choices[0].message.content


@pytest.mark.parametrize("death", ["killed by the operator", "dies by itself"])
def test_streams_outlive_the_verifier(cluster: Cluster, death: str) -> None:
    project = cluster.project
    expected = [answer(cluster, question) for question in QUESTIONS]
    restarts = project.inspect("verifier")["RestartCount"]
    streams = [Stream(cluster, question) for question in QUESTIONS]

    for stream in streams:
        stream.wait_until_it_speaks()
    # What an operator kills, the engine leaves dead until Compose is asked again; what dies by
    # itself it restarts by itself.
    if death == "killed by the operator":
        docker("kill", project.container_id("verifier"))
        project.run("up", "--detach", "--no-build", timeout_s=RESTARTED_WITHIN_S)
    else:
        project.run("exec", "-T", "verifier", "python", "-c", KILL_THE_SERVICE)

    assert [stream.text() for stream in streams] == expected
    if death == "dies by itself":
        assert project.inspect("verifier")["RestartCount"] == restarts + 1
    project.run("up", "--detach", "--wait", "--no-build", timeout_s=RESTARTED_WITHIN_S)


def test_a_stop_drains_every_service_within_its_grace(cluster: Cluster) -> None:
    began_s = time.monotonic()
    cluster.project.run("stop", timeout_s=120)
    print(f"stopped within {time.monotonic() - began_s:.1f} s")

    codes = {name: cluster.project.inspect(name)["State"]["ExitCode"] for name in SERVICES}
    assert codes == dict.fromkeys(SERVICES, 0)


def test_down_leaves_nothing(cluster: Cluster) -> None:
    assert cluster.project.left().keys() == {"container", "network", "volume"}

    cluster.project.remove()

    assert cluster.project.left() == {}


class Stream:
    """One answer being streamed, on a thread of its own."""

    def __init__(self, cluster: Cluster, question: str) -> None:
        self._parts: list[str] = []
        self._failure: BaseException | None = None
        self._speaks = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(cluster, question), daemon=True)
        self._thread.start()

    def wait_until_it_speaks(self) -> None:
        assert self._speaks.wait(60), f"no word: {self._failure}"

    def text(self) -> str:
        """All of it, once it has ended."""
        self._thread.join(RESTARTED_WITHIN_S + 60)
        assert not self._thread.is_alive() and self._failure is None, self._failure
        return "".join(self._parts)

    def _read(self, cluster: Cluster, question: str) -> None:
        try:
            for chunk in cluster.client().chat.completions.create(
                stream=True, **long_answer(question)
            ):
                if chunk.choices and chunk.choices[0].delta.content:
                    self._parts.append(chunk.choices[0].delta.content)
                    self._speaks.set()
        except BaseException as error:
            self._failure = error


def long_answer(question: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 160}


def answer(cluster: Cluster, question: str) -> str:
    done = cluster.client().chat.completions.create(**long_answer(question))
    return done.choices[0].message.content or ""


@contextlib.contextmanager
def edge_by_line(folder: Path) -> Iterator[str]:
    """The README's line, without a GPU, in a network of its own; the URL it serves on."""
    name, (port,) = f"specedge-home-{secrets.token_hex(4)}", free_ports(1)
    docker("network", "create", name)
    try:
        line = next(
            line
            for line in (ROOT / "README.md").read_text().splitlines()
            if line.startswith("docker run --pull never --gpus all ")
        )
        user = own_by_a_person(folder)
        changes = {
            "--gpus all": f"--detach --name {name} --network {name} {TO_THE_BROKER}",
            '"$(id -u):$(id -g)"': user,
            "alice/edge.env": shlex.quote(str(folder / "edge.env")),
            '"$PWD/alice:': f'"{folder}:',
            '"$HOME/.cache/specedge:': f'"{cache_beside(folder)}:',
            "127.0.0.1:8000:8000": f"127.0.0.1:{port}:8000 -e SPECEDGE_DRAFTER=prompt-lookup",
            "-cuda": "",
        }
        for old, new in changes.items():
            assert line.count(old) == 1, f"{old} is not in the documented line"
            line = line.replace(old, new)
        subprocess.run(line, shell=True, check=True, capture_output=True, timeout=60)
        wait_until_healthy(name)
        yield f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "--force", "--volumes", name, check=False)
        docker("network", "rm", name)


@contextlib.contextmanager
def edge_by_compose(folder: Path, nats_url: str) -> Iterator[str]:
    """The same by a Compose project of its own, left to the verifier's own generation."""
    (port,) = free_ports(1)
    settings = {
        "SPECEDGE_EDGE_FOLDER": str(folder),
        "SPECEDGE_USER": own_by_a_person(folder),
        "SPECEDGE_CACHE": str(cache_beside(folder)),
        "SPECEDGE_API_PORT": str(port),
        "SPECEDGE_DRAFTER": "none",
    }
    reached = {"edge": {"extra_hosts": [f"{PUBLIC_HOST}:host-gateway"]}}
    reached["edge"]["environment"] = [f"SPECEDGE_NATS_URL={nats_url}"]
    way = folder.parent / "way.json"
    way.write_text(json.dumps({"services": reached}))
    files = (ROOT / "deploy/edge-at-home/docker-compose.yml", way)
    project = Project(f"specedge-home-{secrets.token_hex(4)}", files, settings)
    try:
        project.run("up", "--detach", "--wait", timeout_s=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        project.remove()
    assert project.left() == {}


def own_by_a_person(folder: Path) -> str:
    """UID:GID that owns ``folder`` and what lies beside it: whoever runs this, if that is a person,
    since root in a container shows nothing."""
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    for path in (folder, *folder.rglob("*"), cache_beside(folder)):
        os.chown(path, HOME_UID, HOME_UID)
    return f"{HOME_UID}:{HOME_UID}"


def cache_beside(folder: Path) -> Path:
    """A home's cache of models, empty at first."""
    cache = folder.parent / "cache"
    cache.mkdir(exist_ok=True)
    return cache


def wait_until_healthy(container: str) -> None:
    """Raises when it is not, for longer than a first start takes."""
    until_s = time.monotonic() + HEALTHY_WITHIN_S
    while time.monotonic() < until_s:
        state = json.loads(docker("inspect", container))[0]["State"]
        if state["Health"]["Status"] == "healthy":
            return
        assert state["Status"] == "running", docker("logs", container)
        time.sleep(1)  # an engine tells no events without a client of its own
    raise AssertionError(f"{container} is not healthy: {docker('logs', '--tail', '20', container)}")


def image_bytes(image: str) -> int:
    return int(json.loads(docker("image", "inspect", image))[0]["Size"])


def free_ports(count: int) -> list[int]:
    """No two alike. Not held any longer: not every engine listens beside a holder."""
    with ReservedPorts() as free:
        return [free.another() for _ in range(count)]
