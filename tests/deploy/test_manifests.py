"""The manifests of k8s/ by the project's own rules."""

from typing import Any, Final

import pytest

from specedge import __version__
from tests.deploy.manifests import VARIANTS, Rendered, Workload, matches, render

# Kinds of volumes that Pod Security "restricted" allows.
VOLUMES: Final = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim", "csi"}
MARGIN_S: Final = 10
# Ports of services that differ from their pods': homes let HTTPS's own out, whoever has no
# privileges listens on another.
OUTSIDE: Final = {("nats-edges", "websocket"): 443}

pytestmark = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def rendered(variant: str) -> Rendered:
    return render(variant)


def test_everything_is_in_the_one_namespace_which_is_restricted(rendered: Rendered) -> None:
    (namespace,) = rendered.of_kind("Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in rendered.manifests:
        if manifest is not namespace:
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_nothing_secret_is_in_the_manifests(rendered: Rendered) -> None:
    assert rendered.of_kind("Secret") == []


def test_pods_are_what_pod_security_calls_restricted(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        pod, mine = workload.pod, workload.container["securityContext"]
        shared = pod["securityContext"]
        assert shared["runAsNonRoot"] is True
        assert shared["runAsUser"] == shared["runAsGroup"] == shared["fsGroup"] == 10001
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
        assert mine == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
        assert all("hostPort" not in port for port in workload.container["ports"])
        for volume in pod["volumes"]:
            assert volume.keys() - {"name"} <= VOLUMES, volume


def test_no_pod_holds_a_token_or_is_told_of_services_that_it_did_not_ask_for(
    rendered: Rendered,
) -> None:
    for workload in rendered.workloads:
        account = rendered.named("ServiceAccount", workload.pod["serviceAccountName"])
        assert account["metadata"]["name"] == workload.name
        assert account["automountServiceAccountToken"] is False
        assert workload.pod["automountServiceAccountToken"] is False
        assert workload.pod["enableServiceLinks"] is False


def test_startup_readiness_and_liveness_ask_different_things_of_ports_that_there_are(
    rendered: Rendered,
) -> None:
    for workload in rendered.workloads:
        container = workload.container
        probes = [container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
        asked = [probe["httpGet"]["path"] for probe in probes]
        expected = (
            ["/healthz", "/healthz?js-server-only=true", "/healthz?js-enabled-only=true"]
            if workload.name == "nats"
            else ["/started", "/ready", "/live"]
        )
        assert asked == expected
        assert all(probe["httpGet"]["port"] in workload.ports for probe in probes)


def test_a_start_is_given_minutes_and_a_failure_is_noticed_within_one(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        container = workload.container
        startup_s, ready_s, live_s = (
            container[kind]["periodSeconds"] * container[kind]["failureThreshold"]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        )
        assert startup_s >= (900 if workload.name in ("verifier", "edge") else 120)
        assert ready_s <= 10
        # Slower than readiness, so that what heals by itself is not restarted.
        assert 2 * ready_s < live_s <= 60


def test_a_pod_that_leaves_has_time_for_all_that_it_still_has_to_do(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        hook = workload.container.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        drain_s = float(rendered.environment(workload).get("SPECEDGE_DRAIN_S", 0))
        needed_s = hook["sleep"]["seconds"] + drain_s + MARGIN_S
        assert workload.pod["terminationGracePeriodSeconds"] >= needed_s
        # Only who is called through a Service must wait until the callers know that he leaves.
        assert (hook["sleep"]["seconds"] > 0) == (workload.name == "edge")


def test_every_container_asks_for_what_it_needs_and_memory_is_bounded(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        resources = workload.container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert "memory" in resources["limits"]
        assert "cpu" not in resources["limits"]  # a throttled service makes a verifier wait
        for volume in workload.pod["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


def test_images_are_pinned_to_this_version_or_to_a_release(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        name, _, tag = workload.container["image"].partition(":")
        if name.startswith("specedge/"):
            assert name == f"specedge/{workload.name}"
            assert tag.split("-")[0] == __version__
        else:
            assert (name, tag.split("-")[0].count(".")) == ("nats", 1)
        assert workload.container["imagePullPolicy"] == "IfNotPresent"


def test_selectors_of_services_and_budgets_pick_the_pods_of_one_workload(
    rendered: Rendered,
) -> None:
    selectors = {s["metadata"]["name"]: s["spec"]["selector"] for s in rendered.of_kind("Service")}
    budgets = rendered.of_kind("PodDisruptionBudget")

    for name, labels in selectors.items():
        assert _picked(rendered, {"matchLabels": labels}) == [name.split("-")[0]]
    for budget in budgets:
        assert _picked(rendered, budget["spec"]["selector"]) == [budget["metadata"]["name"]]
        assert budget["spec"]["maxUnavailable"] == 1  # never such that a node cannot be drained
    assert {b["metadata"]["name"] for b in budgets} == {w.name for w in rendered.workloads}


def test_workloads_select_their_own_pods_and_spread_them(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        assert _picked(rendered, workload.spec["selector"]) == [workload.name]
        spreads = workload.pod.get("topologySpreadConstraints", [])
        assert all(_picked(rendered, s["labelSelector"]) == [workload.name] for s in spreads)
        if workload.name in ("verifier", "edge"):
            assert {spread["topologyKey"] for spread in spreads} == {
                "kubernetes.io/hostname",
                "topology.kubernetes.io/zone",
            }


def test_services_point_to_ports_that_their_pods_have(rendered: Rendered) -> None:
    for service in rendered.of_kind("Service"):
        name = service["metadata"]["name"].split("-")[0]
        ports = rendered.workload(name).ports
        for port in service["spec"]["ports"]:
            there = ports[port["targetPort"]]
            assert port["port"] == OUTSIDE.get((service["metadata"]["name"], port["name"]), there)


def test_stateful_sets_have_the_headless_service_that_they_name(rendered: Rendered) -> None:
    for manifest in rendered.of_kind("StatefulSet"):
        service = rendered.named("Service", manifest["spec"]["serviceName"])
        assert service["spec"]["clusterIP"] == "None"


def test_a_pod_that_never_gets_ready_is_replaced_by_a_mended_one(rendered: Rendered) -> None:
    """Ordered sets wait for it instead, whatever is applied."""
    for manifest in rendered.of_kind("StatefulSet"):
        assert manifest["spec"]["podManagementPolicy"] == "Parallel", manifest["metadata"]["name"]


def test_there_is_never_a_second_scheduler_or_broker(rendered: Rendered) -> None:
    assert rendered.workload("scheduler").spec["strategy"] == {"type": "Recreate"}
    assert rendered.workload("scheduler").spec["replicas"] == 1
    assert rendered.workload("nats").spec["replicas"] == 1


def test_every_mount_has_its_volume_and_every_volume_its_mount(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        claims = [c["metadata"]["name"] for c in workload.spec.get("volumeClaimTemplates", [])]
        volumes = claims + [volume["name"] for volume in workload.pod["volumes"]]
        mounts = {mount["name"] for mount in workload.container["volumeMounts"]}
        assert sorted(volumes) == sorted(mounts)


def test_secrets_are_mounted_read_only_and_closed_to_others(rendered: Rendered) -> None:
    for workload in rendered.workloads:
        volumes = {v["name"]: v for v in workload.pod["volumes"]}
        for mount in workload.container["volumeMounts"]:
            source = volumes.get(mount["name"], {})
            held = source.get("secret") or source.get("projected")
            if held is not None:
                assert held["defaultMode"] == 0o440
                assert mount["readOnly"] is True


def _picked(rendered: Rendered, selector: dict[str, Any]) -> list[str]:
    workloads: list[Workload] = rendered.workloads
    return [workload.name for workload in workloads if matches(selector, workload.labels)]
