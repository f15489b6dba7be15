"""What the pages on Kubernetes tell people to type is there to be typed."""

import re
import shlex
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from specedge.cli.commands import app
from tests.deploy.cluster_credentials import FOLDER, make_credentials
from tests.deploy.manifests import K8S, REPOSITORY, VARIANTS, kustomize, render

PAGES: Final = (K8S / "README.md", REPOSITORY / "docs" / "runbook.md")
TEXTS: Final = {page.name: page.read_text() for page in PAGES}


@pytest.mark.parametrize("page", TEXTS)
def test_every_path_in_k8s_that_is_named_is_there(page: str) -> None:
    named = set(re.findall(r"\bk8s/[\w./-]+\w", TEXTS[page]))

    assert named
    for path in named:
        assert (REPOSITORY / path).exists() or path.startswith(FOLDER), path


@pytest.mark.parametrize("page", TEXTS)
def test_every_object_that_kubectl_is_asked_for_is_made(page: str) -> None:
    kinds = {"statefulset", "deployment", "service"}
    named = re.findall(rf"\b({'|'.join(kinds)})[/ ]([a-z-]+)\b", _commands(TEXTS[page]))
    made = {
        (manifest["kind"].lower(), manifest["metadata"]["name"])
        for variant in VARIANTS
        for manifest in render(variant).manifests
    }

    assert named
    assert set(named) <= made


def test_every_way_of_changing_credentials_works_in_turn(tmp_path: Path) -> None:
    make_credentials(tmp_path)
    commands = [
        line
        for line in re.findall(r"specedge creds [^\n`]+", TEXTS["runbook.md"])
        if FOLDER in line
    ]

    assert {shlex.split(command)[2] for command in commands} == {"add-edge", "init", "remove"}
    for command in sorted(commands, key=lambda line: "remove" in line):
        words = [word.replace(FOLDER, f"{tmp_path}/folder") for word in shlex.split(command)[1:]]
        said = CliRunner().invoke(app, words)
        assert said.exit_code == 0, (command, said.output)


def test_upgrades_have_the_broker_permit_what_is_new_before_services_ask_for_it() -> None:
    """A subscription that was denied is not tried again."""
    compose, cluster = re.findall(r"^##+ Upgrade\n(.*?)(?=^##+ )", TEXTS["runbook.md"], re.M | re.S)

    for section, *in_order in (
        (compose, "run --rm credentials", "--signal reload=1", "up --detach"),
        (cluster, f"creds init --dir {FOLDER}", "the same three commands", "apply -k k8s/overlays"),
    ):
        places = [section.find(part) for part in in_order]
        assert -1 < places[0] < places[1] < places[2], in_order


def test_an_overlay_of_ones_own_takes_images_from_ones_own_registry(tmp_path: Path) -> None:
    (written,) = re.findall(
        r"```yaml\n# my-overlay/kustomization.yaml\n(.*?)```", TEXTS["README.md"], re.S
    )
    overlay = tmp_path / "my-overlay"
    overlay.mkdir()
    (tmp_path / "k8s").symlink_to(K8S)
    (tmp_path / "deploy").symlink_to(REPOSITORY / "deploy")
    (overlay / "kustomization.yaml").write_text(written)

    images = {
        container["image"]
        for manifest in kustomize(overlay)
        if manifest["kind"] in ("Deployment", "StatefulSet")
        for container in manifest["spec"]["template"]["spec"]["containers"]
    }

    assert {image for image in images if not image.startswith("nats:")} == {
        f"registry.example.org/{w.container['image']}"
        for w in render("gpu").workloads
        if w.name != "nats"
    }


def _commands(text: str) -> str:
    """Lines that begin with kubectl, and what stands between backquotes."""
    lines = re.findall(r"^kubectl .*$", text, re.M) + re.findall(r"`([^`\n]+)`", text)
    return "\n".join(lines)
