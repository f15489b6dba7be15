"""Who may say what: the permissions of each role, as patterns of subjects. Values only.

The subjects themselves are spelled in ``specedge.protocol.subjects``; where a pattern leaves a
token open (any edge, any verifier), it is written here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from specedge.ids import EdgeId, SchedulerId, VerifierId
from specedge.protocol import subjects


class Role(StrEnum):
    """What somebody is to the system."""

    SCHEDULER = "scheduler"
    VERIFIER = "verifier"
    OBSERVER = "observer"
    EDGE = "edge"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Patterns that a user may publish and subscribe to. Everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions_of(role: Role, *, name: str, public_key: str) -> Permissions:
    """Of somebody called ``name``: a service is known by its name, an edge by its key alone."""
    match role:
        case Role.SCHEDULER:
            return scheduler(SchedulerId(name))
        case Role.VERIFIER:
            return verifier(VerifierId(name))
        case Role.OBSERVER:
            return observer()
        case Role.EDGE:
            return edge(EdgeId(public_key))
        case _:
            assert_never(role)


def edge(edge_id: EdgeId) -> Permissions:
    """An edge speaks below its own key and hears below its own key, and nothing else."""
    return Permissions(publish=(f"se.up.{edge_id}.>",), subscribe=(f"se.dn.{edge_id}.>",))


def verifier(verifier_id: VerifierId) -> Permissions:
    """A verifier answers any edge's sessions and reports under its own name."""
    return Permissions(
        publish=("se.dn.*.v.>", f"se.ver.{verifier_id}.>"),
        subscribe=(
            subjects.all_work(verifier_id),
            f"se.up.*.draft.{verifier_id}.*",
            f"{subjects.service_inbox(verifier_id)}.>",
        ),
    )


def scheduler(scheduler_id: SchedulerId) -> Permissions:
    """A scheduler hears every edge and verifier, gives work, and holds the leader's lease."""
    return Permissions(
        publish=(
            "se.dn.>",
            "se.work.>",
            f"se.sch.{scheduler_id}.>",
            "se.inbox.>",
            "$JS.API.>",
            "$KV.lease.>",
        ),
        subscribe=(
            subjects.ALL_UP,
            subjects.ALL_VERIFIERS,
            subjects.ALL_SCHEDULERS,
            f"{subjects.service_inbox(scheduler_id)}.>",
        ),
    )


def observer() -> Permissions:
    """Sees how the system does; says nothing."""
    return Permissions(publish=(), subscribe=(subjects.ALL_VERIFIERS, subjects.ALL_SCHEDULERS))
