"""What kustomize makes of k8s/, as values that tests ask questions of. Judges nothing itself."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

REPOSITORY: Final = Path(__file__).parents[2]
K8S: Final = REPOSITORY / "k8s"
OVERLAYS: Final = tuple(sorted(path.parent.name for path in K8S.glob("overlays/*/*.yaml")))
# What can be rendered: base alone, each overlay, and one overlay with all there is.
EVERYTHING: Final = "everything"
VARIANTS: Final = ("base", *dict.fromkeys(OVERLAYS), EVERYTHING)

WORKLOADS: Final = ("Deployment", "StatefulSet")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or StatefulSet, and the pods it makes."""

    manifest: Manifest

    @property
    def name(self) -> str:
        """Also the name of its one container, and, among these, of its service."""
        name: str = self.manifest["metadata"]["name"]
        return name

    @property
    def spec(self) -> Manifest:
        """Of the workload."""
        spec: Manifest = self.manifest["spec"]
        return spec

    @property
    def pod(self) -> Manifest:
        """Spec of its pods."""
        pod: Manifest = self.spec["template"]["spec"]
        return pod

    @property
    def labels(self) -> dict[str, str]:
        """Of its pods."""
        labels: dict[str, str] = self.spec["template"]["metadata"]["labels"]
        return labels

    @property
    def container(self) -> Manifest:
        """Its pods have one each."""
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def pod_names(self) -> tuple[str, ...]:
        """Of a StatefulSet, where names are known beforehand."""
        assert self.manifest["kind"] == "StatefulSet"
        return tuple(f"{self.name}-{index}" for index in range(self.spec["replicas"]))

    @property
    def ports(self) -> dict[str, int]:
        """Of the container, by name."""
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}


@dataclass(frozen=True, slots=True)
class Rendered:
    """All manifests of one variant."""

    variant: str
    manifests: tuple[Manifest, ...]

    def of_kind(self, *kinds: str) -> list[Manifest]:
        """In the order of rendering."""
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def named(self, kind: str, name: str) -> Manifest:
        """The only one."""
        (found,) = (m for m in self.of_kind(kind) if m["metadata"]["name"] == name)
        return found

    @property
    def workloads(self) -> list[Workload]:
        """Everything that makes pods."""
        return [Workload(manifest) for manifest in self.of_kind(*WORKLOADS)]

    def workload(self, name: str) -> Workload:
        """By name."""
        (found,) = (w for w in self.workloads if w.name == name)
        return found

    def environment(self, workload: Workload) -> dict[str, str]:
        """What the container of the workload's first pod is told; of a secret, its name and key."""
        values: dict[str, str] = {}
        for source in workload.container.get("envFrom", []):
            values |= self.named("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in workload.container.get("env", []):
            values[variable["name"]] = _value(variable, workload)
        return values


@functools.cache
def render(variant: str) -> Rendered:
    """Run kustomize over a variant. Fails the test, with what it said, when it cannot."""
    if variant == EVERYTHING:
        return Rendered(variant, kustomize_everything())
    folder = K8S / "base" if variant == "base" else K8S / "overlays" / variant
    return Rendered(variant, kustomize(folder))


def kustomize(folder: Path) -> tuple[Manifest, ...]:
    """``kubectl kustomize``, parsed."""
    command = [find_kubectl(), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(manifest for manifest in yaml.safe_load_all(done.stdout) if manifest)


def kustomize_everything() -> tuple[Manifest, ...]:
    """The largest overlay, and every component that it leaves out."""
    with tempfile.TemporaryDirectory() as scratch:
        overlay = K8S / "overlays" / "gpu"
        taken = yaml.safe_load((overlay / "kustomization.yaml").read_text())["components"]
        here = {(overlay / path).resolve() for path in taken}
        left = sorted(path for path in (K8S / "components").iterdir() if path not in here)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(overlay, Path(scratch).resolve())],
            "components": [os.path.relpath(path, Path(scratch).resolve()) for path in left],
        }
        (Path(scratch) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(Path(scratch).resolve())


def find_kubectl() -> str:
    """The one that `make setup` fetched; else one on the PATH; else the test is skipped, loudly,
    and fails where tests are there to be relied on."""
    pinned = Path(sys.executable).parent / "kubectl"
    found = str(pinned) if pinned.is_file() else shutil.which("kubectl")
    if found is None:
        said = "THE MANIFESTS IN k8s/ WERE NOT CHECKED: there is no kubectl (`make setup`)"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    return found


def matches(selector: Manifest | None, labels: dict[str, str]) -> bool:
    """Whether a label selector picks ``labels``. None picks nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels", {}).items()
    expressions = selector.get("matchExpressions", [])
    return all(labels.get(key) == value for key, value in wanted) and all(
        _fits(expression, labels) for expression in expressions
    )


def _fits(expression: Manifest, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case other:
            raise AssertionError(f"no such operator: {other}")


def _value(variable: Manifest, workload: Workload) -> str:
    if "value" in variable:
        return str(variable["value"])
    source = variable["valueFrom"]
    if "fieldRef" in source:
        assert source["fieldRef"]["fieldPath"] == "metadata.name"
        return workload.pod_names[0]
    secret = source["secretKeyRef"]
    return f"{secret['name']}/{secret['key']}"
