"""Names in k8s/ agree with the code's settings, with Compose's file, and with one another."""

import json
import os
import re
from pathlib import PurePosixPath
from typing import Any, Final

import pytest

from specedge.service.settings import PREFIX, ServiceSettings, load_settings
from specedge_edge.config import EdgeSettings
from specedge_scheduler.config import SchedulerSettings
from specedge_verifier.config import VerifierSettings
from tests.deploy.compose_project import Project
from tests.deploy.manifests import K8S, REPOSITORY, VARIANTS, Rendered, Workload, render

SETTINGS: Final[dict[str, type[ServiceSettings]]] = {
    "scheduler": SchedulerSettings,
    "verifier": VerifierSettings,
    "edge": EdgeSettings,
}
# Of the hub's library, and for the manifests' own use.
OTHER_VARIABLES: Final = {"HF_HOME", "HF_TOKEN", "POD_NAME"}


def told(rendered: Rendered, name: str, monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    """The settings that a container ends up with. Raises SettingsInvalid."""
    for variable in list(os.environ):
        if variable.startswith(PREFIX):
            monkeypatch.delenv(variable)
    for variable, value in rendered.environment(rendered.workload(name)).items():
        monkeypatch.setenv(variable, value)
    return load_settings(SETTINGS[name], {})


def services_of(rendered: Rendered) -> list[str]:
    return [workload.name for workload in rendered.workloads if workload.name in SETTINGS]


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """Compose's services, resolved."""
    said = Project("specedge-names").run("--profile", "*", "config", "--format", "json")
    services: dict[str, Any] = json.loads(said)["services"]
    return services


@pytest.mark.parametrize("variant", VARIANTS)
def test_containers_are_told_only_of_settings_that_their_service_has(variant: str) -> None:
    rendered = render(variant)

    for name in services_of(rendered):
        variables = rendered.environment(rendered.workload(name)).keys() - OTHER_VARIABLES
        fields = {f"{PREFIX}{field.upper()}" for field in SETTINGS[name].model_fields}
        assert variables <= fields


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_containers_are_told_are_settings_that_a_service_accepts(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(variant)

    for name in services_of(rendered):
        settings = told(rendered, name, monkeypatch)
        assert settings.http_host == "0.0.0.0"
        assert settings.http_port == rendered.workload(name).ports["http"]
        assert settings.log_format == "json"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_broker_is_dialled_where_it_listens_and_over_tls(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(variant)
    config = next(
        m["data"]["nats-server.conf"]
        for m in rendered.of_kind("ConfigMap")
        if m["metadata"]["name"].startswith("nats-config")
    )
    ports = rendered.workload("nats").ports
    service = rendered.named("Service", "nats")["spec"]

    assert re.findall(r'^listen: "0\.0\.0\.0:(\d+)"$', config, re.M) == [str(ports["client"])]
    assert re.findall(r'^http: "0\.0\.0\.0:(\d+)"$', config, re.M) == [str(ports["monitor"])]
    assert re.findall(r'^  listen: "0\.0\.0\.0:(\d+)"$', config, re.M) == [str(ports["websocket"])]
    for name in services_of(rendered):
        settings = told(rendered, name, monkeypatch)
        assert settings.nats_servers == (f"tls://nats:{service['ports'][0]['port']}",)
        assert "clusterIP" not in service  # an address that outlives pods


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_that_services_are_told_of_are_mounted_and_caches_can_be_written(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(variant)

    for name in services_of(rendered):
        settings, workload = told(rendered, name, monkeypatch), rendered.workload(name)
        for path in (settings.identity_file, settings.nats_ca_file, _api_keys(settings)):
            if path is not None:
                assert _mount(workload, str(path))["readOnly"] is True
        if name != "scheduler":
            assert "readOnly" not in _mount(workload, str(settings.cache_dir))
            hub = rendered.environment(workload)["HF_HOME"]
            assert PurePosixPath(hub).is_relative_to(settings.cache_dir)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_has_a_name_and_a_key_of_its_own(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(variant)

    for name in ("verifier", "edge"):
        if name not in services_of(rendered):
            continue
        workload = rendered.workload(name)
        (mount,) = (m for m in workload.container["volumeMounts"] if m["mountPath"].endswith(".nk"))
        (variable,) = re.findall(r"\$\((\w+)\)\.nk", mount["subPathExpr"])
        assert rendered.environment(workload)[variable] == workload.pod_names[0]
    verifier = told(rendered, "verifier", monkeypatch)
    assert isinstance(verifier, VerifierSettings)
    assert verifier.verifier_id == rendered.workload("verifier").pod_names[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_edges_use_the_tokenizer_of_the_model_that_verifiers_serve(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(variant)

    models = set()
    for name in services_of(rendered):
        settings = told(rendered, name, monkeypatch)
        if isinstance(settings, VerifierSettings | EdgeSettings):
            models.add(settings.model)

    assert len(models) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_manifest_spells_a_subject(variant: str) -> None:
    """Subjects are the code's; the permissions in the broker's secret are written by it."""
    assert not re.search(r"\bse\.(up|dn|work|ver|sch|inbox)\b", str(render(variant).manifests))


def test_images_are_those_of_composes_file_and_the_light_edge(composed: dict[str, Any]) -> None:
    built = {service["image"] for service in composed.values()}
    light = f"{composed['edge']['image']}-light"
    edge = (REPOSITORY / "services/edge/Dockerfile").read_text()

    used = {w.container["image"] for variant in VARIANTS for w in render(variant).workloads}

    assert "--build-arg PARTS=text " in edge and "\nARG PARTS=" in edge
    assert used <= built | {light}
    assert {composed[name]["image"] for name in SETTINGS} <= used


def test_cluster_and_compose_tell_services_the_same_paths_and_models(
    composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant, suffix in (("dev-cpu", ""), ("gpu", "-gpu")):
        for name in SETTINGS:
            here = render(variant).environment(render(variant).workload(name))
            there = composed[name + (suffix if name != "scheduler" else "")]["environment"]
            for field in ("NATS_URL", "NATS_CA_FILE", "IDENTITY_FILE", "API_KEY_FILE", "MODEL"):
                assert here.get(PREFIX + field) == there.get(PREFIX + field), (name, field)


@pytest.mark.parametrize("variant", VARIANTS)
def test_edges_outwait_what_there_is_one_of(variant: str, composed: dict[str, Any]) -> None:
    """A broker, a scheduler, maybe a verifier: each may have to come back on another node."""
    patience = f"{PREFIX}PATIENCE_S"
    rendered = render(variant)

    for name in set(services_of(rendered)) & {"edge"}:
        told_here = rendered.environment(rendered.workload(name))
        assert told_here[patience] == composed["edge"]["environment"][patience] == "120"


def test_cluster_and_compose_agree_on_ports(composed: dict[str, Any]) -> None:
    rendered = render("dev-cpu")

    assert {p["target"] for p in composed["edge"]["ports"]} == {8000}
    assert {rendered.workload(name).ports["http"] for name in SETTINGS} == {8000}
    assert {p["target"] for p in composed["nats"]["ports"]} == {4222}
    for path in REPOSITORY.glob("services/*/Dockerfile"):
        assert "EXPOSE 8000\n" in path.read_text(), path


def test_images_come_with_the_paths_that_manifests_mount() -> None:
    for name in ("verifier", "edge"):
        text = (REPOSITORY / f"services/{name}/Dockerfile").read_text()
        workload = render("base" if name == "verifier" else "dev-cpu").workload(name)
        told_here = {v["name"]: v.get("value") for v in workload.container["env"]}
        for variable in ("SPECEDGE_CACHE_DIR", "HF_HOME"):
            assert f"{variable}={told_here[variable]}" in text, (name, variable)


def test_every_component_is_part_of_what_is_tested() -> None:
    text = "".join(str(render(variant).manifests) for variant in VARIANTS)

    for path in (K8S / "components").glob("*/*.yaml"):
        for name in re.findall(r"^  name: (\S+)$", path.read_text(), re.M):
            assert f"'name': '{name}'" in text, path


def _mount(workload: Workload, path: str) -> dict[str, Any]:
    """The mount that ``path`` is on: the innermost."""
    mounts = [
        mount
        for mount in workload.container["volumeMounts"]
        if PurePosixPath(path).is_relative_to(mount["mountPath"])
    ]
    assert mounts, f"{workload.name}: nothing is mounted at {path}"
    return dict(max(mounts, key=lambda mount: len(mount["mountPath"])))


def _api_keys(settings: ServiceSettings) -> object:
    return settings.api_key_file if isinstance(settings, EdgeSettings) else None
