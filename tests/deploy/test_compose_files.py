"""Compose's files and the Dockerfiles agree with each other and with the code: no engine needed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from specedge import __version__
from specedge.service.settings import PREFIX, ServiceSettings
from specedge_edge.config import EdgeSettings
from specedge_scheduler.config import SchedulerSettings
from specedge_verifier.config import VerifierSettings
from tests.deploy.compose_project import ROOT, Project

MAIN = ROOT / "docker-compose.yml"
HOME = ROOT / "deploy/edge-at-home/docker-compose.yml"
PUBLIC = (MAIN, ROOT / "deploy/public-broker.yml")
WEBSOCKET = (*PUBLIC, ROOT / "deploy/public-websocket.yml")
SETTINGS: dict[str, type[ServiceSettings]] = {
    "scheduler": SchedulerSettings,
    "verifier": VerifierSettings,
    "verifier-gpu": VerifierSettings,
    "edge": EdgeSettings,
    "edge-gpu": EdgeSettings,
}
NOT_OURS = {"HF_TOKEN"}


def configured(project: Project) -> dict[str, dict[str, object]]:
    """Every service, as Compose understands it."""
    said = project.run("--profile", "*", "config", "--format", "json")
    services: dict[str, dict[str, object]] = json.loads(said)["services"]
    return services


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, object]]:
    return configured(Project("specedge-config"))


def test_a_broker_for_homes_needs_the_name_that_they_dial() -> None:
    said = Project("specedge-config", files=PUBLIC).run_fully("up", "--no-start", check=False)

    assert said.returncode != 0
    assert "set SPECEDGE_PUBLIC_HOST in .env to the name or address" in said.stderr


def test_a_broker_behind_https_needs_the_address_that_homes_dial() -> None:
    given = {"SPECEDGE_PUBLIC_HOST": "broker.example.org"}
    project = Project("specedge-config", files=WEBSOCKET, settings=given)

    said = project.run_fully("up", "--no-start", check=False)

    assert said.returncode != 0
    assert "set SPECEDGE_PUBLIC_URL in .env to what homes dial" in said.stderr


@pytest.mark.parametrize("missing", ["SPECEDGE_EDGE_FOLDER", "SPECEDGE_USER"])
def test_an_edge_at_home_says_what_it_needs(missing: str, tmp_path: Path) -> None:
    (tmp_path / "edge.env").touch()
    given = {"SPECEDGE_EDGE_FOLDER": str(tmp_path), "SPECEDGE_USER": "1000:1000"}
    del given[missing]

    said = Project("specedge-config", files=(HOME,), settings=given).run_fully(
        "up", "--no-start", check=False
    )

    assert said.returncode != 0
    assert f"required variable {missing} is missing a value: set {missing} to" in said.stderr


def test_the_example_of_settings_shows_the_defaults(
    services: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    """With every line of it switched on, nothing changes, in Compose's own reading of it."""
    example = (ROOT / ".env.example").read_text()
    switched_on = re.sub(r"^#(?=\w+=)(?!COMPOSE_)", "", example, flags=re.MULTILINE)
    (tmp_path / ".env").write_text(switched_on)

    assert configured(Project("specedge-config", env_file=tmp_path / ".env")) == services
    assert switched_on.count("\nSPECEDGE_") > 20


def test_the_example_of_settings_has_every_variable_of_composes_files() -> None:
    files = [*WEBSOCKET, HOME]
    asked = {name for path in files for name in re.findall(r"\$\{(\w+)", path.read_text())}
    shown = set(re.findall(r"^#(\w+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))

    of_homes = {"SPECEDGE_EDGE_FOLDER", "SPECEDGE_USER", "SPECEDGE_CACHE"}
    assert asked - of_homes - {"SPECEDGE_REVISION"} == shown - {"COMPOSE_FILE", "COMPOSE_PROFILES"}


@pytest.mark.parametrize("service", SETTINGS)
def test_services_are_told_only_of_settings_that_they_have(
    services: dict[str, dict[str, object]], service: str
) -> None:
    environment = services[service]["environment"]
    assert isinstance(environment, dict)

    told = environment.keys() - NOT_OURS
    fields: dict[str, FieldInfo] = SETTINGS[service].model_fields
    assert told <= {f"{PREFIX}{name.upper()}" for name in fields}


def test_images_are_of_this_version(services: dict[str, dict[str, object]]) -> None:
    images = {str(service["image"]) for service in services.values()}
    ours = {image for image in images if image.startswith("specedge/")}

    assert {image.partition(":")[2].removesuffix("-cuda") for image in ours} == {__version__}
    assert not [image for image in images if ":" not in image or image.endswith(":latest")]
    for path in ROOT.glob("services/*/Dockerfile"):
        assert f"ARG VERSION={__version__}\n" in path.read_text(), path


def test_everything_listens_on_loopback_unless_told_otherwise(
    services: dict[str, dict[str, object]],
) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]  # type: ignore[attr-defined]

    assert len(published) == 5
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_what_runs_for_long_is_confined_bounded_and_drained(
    services: dict[str, dict[str, object]],
) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"] == {
            "driver": "json-file",
            "options": {"max-file": "3", "max-size": "10m"},
        }, name
        if service.get("restart") is None:
            continue
        limits = service["deploy"]["resources"]["limits"]  # type: ignore[index]
        assert int(limits["memory"]) > 0 and limits["pids"] > 0, name
        if name in SETTINGS:
            grace_s = int(str(service["stop_grace_period"]).removesuffix("s"))
            told = service["environment"].get("SPECEDGE_DRAIN_S", "0")  # type: ignore[attr-defined]
            assert ("drain_s" in SETTINGS[name].model_fields) is (told == "20"), name
            assert grace_s >= float(told) + 10, name


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {"verifier-gpu": ["0"], "edge-gpu": ["0"]}),
        ({"SPECEDGE_EDGE_GPU": "1"}, {"verifier-gpu": ["0"], "edge-gpu": ["1"]}),
    ],
)
def test_every_gpu_is_named(given: dict[str, str], found: dict[str, list[str]]) -> None:
    """A count would be of the first ones, for both."""
    services = configured(Project("specedge-config", settings=given))

    assert {name: gpus_of(services[name]) for name in found} == found


def test_a_large_model_may_come_over_an_ordinary_line(
    services: dict[str, dict[str, object]],
) -> None:
    for name in ("verifier-gpu", "edge-gpu"):
        assert services[name]["healthcheck"] == {"start_period": "2h0m0s"}, name


def test_an_edge_at_home_drains_and_never_makes_its_cache_as_root(tmp_path: Path) -> None:
    (tmp_path / "edge.env").touch()
    given = {"SPECEDGE_EDGE_FOLDER": str(tmp_path), "SPECEDGE_USER": "1000:1000"}

    edge: dict[str, Any] = configured(Project("specedge-home", files=(HOME,), settings=given))[
        "edge"
    ]

    (cache,) = [mount for mount in edge["volumes"] if mount["target"] == "/var/cache/specedge"]
    assert cache["source"] == str(Path("~/.cache/specedge").expanduser())
    assert not cache["bind"].get("create_host_path", False)
    assert edge["stop_grace_period"] == "30s" and edge["environment"]["SPECEDGE_DRAIN_S"] == "20"


def test_a_further_verifier_is_what_the_runbook_says(tmp_path: Path) -> None:
    """Its override by the letter: a service of its own, on a GPU of its own."""
    runbook = (ROOT / "docs/runbook.md").read_text()
    (block,) = re.findall(r"```yaml\n(services:\n  volumes:.*?)```", runbook, flags=re.DOTALL)
    further = tmp_path / "docker-compose.override.yml"
    further.write_text(block.replace("file: docker-compose.yml", f"file: {MAIN}"))

    services = configured(Project("specedge-config", files=(MAIN, further)))

    one, other = services["verifier-gpu"], services["verifier-2"]
    assert gpus_of(other) == ["1"]
    assert other["profiles"] == ["gpu"]
    assert other["environment"] == one["environment"] | {"SPECEDGE_VERIFIER_ID": "verifier-2"}  # type: ignore[operator]
    assert {mount["source"] for mount in other["volumes"]} == {"credentials-verifier-2", "models"}  # type: ignore[attr-defined]


def gpus_of(service: dict[str, Any]) -> list[str]:
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert "count" not in device
    ids: list[str] = device["device_ids"]
    return ids


def test_edge_and_verifier_images_share_their_largest_layer() -> None:
    """An image of either is built from the same steps down to the first package of ours."""
    stages = []
    for service in ("edge", "verifier"):
        text = (ROOT / f"services/{service}/Dockerfile").read_text()
        stage = text[text.index("\nFROM ") : text.index("\nFROM engine AS packages")]
        final = text[text.rindex("\nFROM ") :].splitlines()[1:3]
        stages.append((stage, final))

    assert stages[0] == stages[1]
    assert stages[0][1][1].startswith("COPY --from=engine ")
