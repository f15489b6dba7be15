"""Who may connect to whom under a set of NetworkPolicies: the rules of the API, computed.

A connection is allowed if the caller's side lets it out and the called side lets it in; a side that
no policy selects lets everything through. An ``ipBlock`` is taken to mean pods, too: some networks
let it. Knows nothing of SpecEdge.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.manifests import matches

Policy = dict[str, Any]
Peer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Somebody who connects or is connected to.

    namespace   None: no pod, but a host outside the cluster
    ports       of a pod, by name
    """

    name: str
    address: str
    namespace: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    namespace_labels: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """One allowed connection."""

    source: str
    target: str
    protocol: str
    port: int


def allowed_flows(
    policies: Sequence[Policy],
    endpoints: Sequence[Endpoint],
    ports: Iterable[tuple[str, int]],
) -> set[Flow]:
    """All connections between different endpoints over ``ports``, (protocol, number), that the
    policies allow and have a say in."""
    return {
        Flow(source.name, target.name, protocol, port)
        for protocol, port in ports
        for source in endpoints
        for target in endpoints
        if source is not target
        and (_governed(policies, source) or _governed(policies, target))
        and _passes(policies, "Egress", source, target, protocol, port)
        and _passes(policies, "Ingress", target, source, protocol, port)
    }


def _governed(policies: Sequence[Policy], endpoint: Endpoint) -> bool:
    return any(_selects(policy, endpoint) for policy in policies)


def _selects(policy: Policy, endpoint: Endpoint) -> bool:
    return policy["metadata"]["namespace"] == endpoint.namespace and matches(
        policy["spec"]["podSelector"], endpoint.labels
    )


def _passes(
    policies: Sequence[Policy],
    direction: str,
    here: Endpoint,
    there: Endpoint,
    protocol: str,
    port: int,
) -> bool:
    """Whether ``here``'s side of the connection is open; ports are those of the called one."""
    peers, called = ("to", there) if direction == "Egress" else ("from", here)
    applying = [p for p in policies if _selects(p, here) and direction in p["spec"]["policyTypes"]]
    if not applying:
        return True
    return any(
        _port_fits(rule, called, protocol, port) and _peer_fits(rule.get(peers), policy, there)
        for policy in applying
        for rule in policy["spec"].get(direction.lower(), [])
    )


def _port_fits(rule: Peer, called: Endpoint, protocol: str, port: int) -> bool:
    if not rule.get("ports"):
        return True
    for entry in rule["ports"]:
        number = entry.get("port")
        if isinstance(number, str):
            number = called.ports.get(number)
            if number is None:
                continue
        fits = number is None or number <= port <= entry.get("endPort", number)
        if entry.get("protocol", "TCP") == protocol and fits:
            return True
    return False


def _peer_fits(peers: list[Peer] | None, policy: Policy, there: Endpoint) -> bool:
    return not peers or any(_is_peer(peer, policy, there) for peer in peers)


def _is_peer(peer: Peer, policy: Policy, there: Endpoint) -> bool:
    if "ipBlock" in peer:
        return _in_block(peer["ipBlock"], there.address)
    if there.namespace is None:
        return False
    if "namespaceSelector" in peer:
        here = matches(peer["namespaceSelector"], there.namespace_labels)
    else:
        here = there.namespace == policy["metadata"]["namespace"]
    return here and ("podSelector" not in peer or matches(peer["podSelector"], there.labels))


def _in_block(block: Peer, address: str) -> bool:
    def inside(cidr: str) -> bool:
        return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)

    return inside(block["cidr"]) and not any(inside(cidr) for cidr in block.get("except", []))
