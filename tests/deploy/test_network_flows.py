"""Who may talk to whom in the cluster: computed from the policies, held against a literal list."""

from typing import Final

import pytest

from tests.deploy.manifests import VARIANTS, Rendered, matches, render
from tests.deploy.reachability import Endpoint, Flow, Policy, allowed_flows

NAMESPACE: Final = "specedge"
PORTS: Final = (
    *(("TCP", port) for port in (22, 53, 80, 443, 4222, 6222, 6443, 8000, 8222, 8443, 9090)),
    *(("UDP", port) for port in (53, 123, 4222)),
)


def outsiders() -> tuple[Endpoint, ...]:
    """Everybody else: those who are named by a policy, their neighbours, and hosts outside."""

    def pod(name: str, address: str, namespace: str, **labels: str) -> Endpoint:
        spelled = {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
        own = {"kubernetes.io/metadata.name": namespace}
        own |= {"specedge/api-client": "true"} if namespace == "ingress" else {}
        return Endpoint(name, address, namespace, spelled, own)

    return (
        pod("dns", "10.1.0.10", "kube-system", k8s_app="kube-dns"),
        pod("system-pod", "10.1.0.11", "kube-system", k8s_app="something"),
        Endpoint(
            "prometheus",
            "10.1.0.12",
            "monitoring",
            {"app.kubernetes.io/name": "prometheus"},
            {"kubernetes.io/metadata.name": "monitoring"},
        ),
        pod("monitoring-pod", "10.1.0.13", "monitoring", app="grafana"),
        pod("api-client", "10.1.0.14", "ingress", app="gateway"),
        pod("stranger", "10.1.0.15", "default", app="stranger"),
        pod("stray", "10.1.0.16", NAMESPACE, app="stray"),
        Endpoint("internet", "203.0.113.7"),
        Endpoint("internet-v6", "2001:db8::7"),
        Endpoint("private-host", "192.168.7.7"),
        Endpoint("cloud-metadata", "169.254.169.254"),
    )


def endpoints_of(rendered: Rendered) -> tuple[Endpoint, ...]:
    """The system's own pods, one of each."""
    labels = {"kubernetes.io/metadata.name": NAMESPACE}
    return tuple(
        Endpoint(w.name, f"10.1.1.{index}", NAMESPACE, w.labels, labels, w.ports)
        for index, w in enumerate(rendered.workloads, start=1)
    )


def dns_of(*names: str) -> set[Flow]:
    return {Flow(name, "dns", protocol, 53) for name in names for protocol in ("TCP", "UDP")}


def fetching(*names: str) -> set[Flow]:
    hosts = ("internet", "internet-v6")
    return {Flow(name, host, "TCP", 443) for name in names for host in hosts}


def from_everywhere(port: int) -> set[Flow]:
    """An address outside cannot be told from any other: keys and TLS decide there."""
    return {
        Flow(outsider.name, "nats", "TCP", port)
        for outsider in outsiders()
        if outsider.name != "stray"  # it may not speak itself
    }


# All of the protocol is a connection to the broker: what is said there is the broker's to permit.
CLOUD: Final = {
    Flow("scheduler", "nats", "TCP", 4222),
    Flow("verifier", "nats", "TCP", 4222),
} | dns_of("scheduler", "verifier")
EDGE: Final = {
    Flow("edge", "nats", "TCP", 4222),
    Flow("api-client", "edge", "TCP", 8000),
} | dns_of("edge")
FETCHING: Final = fetching("verifier", "edge")
HOMES: Final = from_everywhere(4222)
WEBSOCKET: Final = from_everywhere(8443)
METRICS: Final = {
    Flow("prometheus", name, "TCP", 8000) for name in ("scheduler", "verifier", "edge")
}
EXPECTED: Final = {
    "base": CLOUD,
    "dev-cpu": CLOUD | EDGE | FETCHING,
    "gpu": CLOUD | EDGE | FETCHING | HOMES,
    "everything": CLOUD | EDGE | FETCHING | HOMES | WEBSOCKET | METRICS,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_flow_of_the_protocol_is_allowed_and_no_other(variant: str) -> None:
    rendered = render(variant)
    everybody = endpoints_of(rendered) + outsiders()

    flows = allowed_flows(rendered.of_kind("NetworkPolicy"), everybody, PORTS)

    assert flows == EXPECTED[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_policy_names_pods_that_there_are(variant: str) -> None:
    rendered = render(variant)
    pods = [workload.labels for workload in rendered.workloads]

    for policy in rendered.of_kind("NetworkPolicy"):
        rules = policy["spec"].get("ingress", []) + policy["spec"].get("egress", [])
        peers = [peer for rule in rules for peer in rule.get("from", []) + rule.get("to", [])]
        ours = [p["podSelector"] for p in peers if "podSelector" in p and len(p) == 1]
        for selector in (policy["spec"]["podSelector"], *ours):
            assert any(matches(selector, labels) for labels in pods), (policy, selector)


def test_the_computation_tells_an_open_side_from_a_closed_one() -> None:
    caller = Endpoint("caller", "10.0.0.1", "here", {"app": "caller"})
    called = Endpoint("called", "10.0.0.2", "here", {"app": "called"}, ports={"http": 80})
    metadata = {"name": "policy", "namespace": "here"}
    spec = {"podSelector": {"matchLabels": {"app": "called"}}, "policyTypes": ["Ingress"]}
    rule = {"from": [{"podSelector": {}}], "ports": [{"port": "http"}]}
    closed = {"metadata": metadata, "spec": spec}
    opened = {"metadata": metadata, "spec": {**spec, "ingress": [rule]}}
    back = Flow("called", "caller", "TCP", 80)

    def flows(*policies: Policy) -> set[Flow]:
        return allowed_flows(policies, (caller, called), [("TCP", 80)])

    assert flows(closed) == {back}
    assert flows(closed, opened) == {back, Flow("caller", "called", "TCP", 80)}
