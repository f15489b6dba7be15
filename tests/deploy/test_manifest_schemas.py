"""The manifests of k8s/ against Kubernetes' own schemas, strictly: an unknown field is an error."""

import json
import sys
from typing import Any, Final

import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions
from packaging.version import Version

from tests.deploy.manifests import VARIANTS, find_kubectl, render

NEWEST: Final = tuple(sorted(set(all_versions()), key=Version)[-3:])
# Of the Prometheus operator: Kubernetes has no schema of them.
OTHER_KINDS: Final = {"PodMonitor", "PrometheusRule"}


def manifests() -> list[dict[str, Any]]:
    """Of all variants, each once."""
    distinct = {json.dumps(m, sort_keys=True) for v in VARIANTS for m in render(v).manifests}
    return [json.loads(manifest) for manifest in sorted(distinct)]


@pytest.mark.parametrize("version", NEWEST)
def test_every_manifest_is_valid_to_the_newest_versions_of_kubernetes(version: str) -> None:
    for manifest in manifests():
        if manifest["kind"] not in OTHER_KINDS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    (account, *_) = render("base").of_kind("ServiceAccount")

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**account, "automount": False}, NEWEST[-1], strict=True)


def test_what_was_not_checked_is_said_and_is_a_failure_where_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")

    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="WERE NOT CHECKED"):
        find_kubectl()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="WERE NOT CHECKED"):
        find_kubectl()
