"""Every subject, spelled once: how it is built, who may say it, and how it is read back.

    se.up.<e>.<kind>…      from an edge          se.dn.<e>.…    to an edge
    se.work.<v>.<kind>…    to a verifier         se.ver.<v>.…   from a verifier
    se.sch.<c>.stat        from a scheduler      se.inbox.<svc>.…  replies to a service

A session is named by its subject alone; the server lets an edge speak only below its own key.
Where a body is forwarded raw (context, cancel, close) the session goes into the work subject too.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from specedge.ids import (
    EDGE_ID,
    SERVICE_NAME,
    SESSION_ID,
    EdgeId,
    GroupId,
    SchedulerId,
    SessionId,
    SessionKey,
    VerifierId,
)

ALL_UP: Final = "se.up.>"
ALL_VERIFIERS: Final = "se.ver.>"
ALL_SCHEDULERS: Final = "se.sch.>"
DEFAULT_GROUP: Final = GroupId("main")
SUBJECTS_KNOWN: Final = 1024  # a session's drafts all come on one subject


class Up(StrEnum):
    """What an edge says. OPEN and RENEW are requests, the rest is published."""

    OPEN = "open"
    CONTEXT = "ctx"
    DRAFT = "draft"
    AHEAD = "ahead"
    CANCEL = "cancel"
    CLOSE = "close"
    RENEW = "renew"


class Work(StrEnum):
    """What a scheduler says to a verifier."""

    CONTEXT = "ctx"
    AHEAD = "ahead"
    BATCH = "batch"
    CANCEL = "cancel"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class UpAddress:
    """A subject of an edge, read back. ``target`` only for CONTEXT, DRAFT and AHEAD."""

    kind: Up
    key: SessionKey
    target: str | None = None


@dataclass(frozen=True, slots=True)
class WorkAddress:
    """A subject of a verifier's work, read back. ``key`` for all but BATCH."""

    kind: Work
    verifier: VerifierId
    key: SessionKey | None = None


def up_open(key: SessionKey) -> str:
    """Edge → scheduler, request."""
    return f"se.up.{key.edge}.open.{key.session}"


def up_context(key: SessionKey, target: str) -> str:
    """Edge → scheduler: a chunk of context. ``target`` is the scheduler group's name."""
    return f"se.up.{key.edge}.ctx.{target}.{key.session}"


def up_draft(key: SessionKey, target: str) -> str:
    """Edge → scheduler: a draft. ``target`` is the scheduler group's name."""
    return f"se.up.{key.edge}.draft.{target}.{key.session}"


def up_ahead(key: SessionKey, target: str) -> str:
    """Edge → scheduler → verifier: a draft sent ahead. ``target`` is the scheduler group's name."""
    return f"se.up.{key.edge}.ahead.{target}.{key.session}"


def up_cancel(key: SessionKey) -> str:
    """Edge → scheduler → verifier: the client went away."""
    return f"se.up.{key.edge}.cancel.{key.session}"


def up_close(key: SessionKey) -> str:
    """Edge → scheduler → verifier: the session ended well."""
    return f"se.up.{key.edge}.close.{key.session}"


def work(kind: Work, verifier: VerifierId, key: SessionKey | None = None) -> str:
    """Scheduler → verifier. ``key`` for everything but a batch."""
    stem = f"se.work.{verifier}.{kind}"
    return stem if key is None else f"{stem}.{key.edge}.{key.session}"


def all_work(verifier: VerifierId) -> str:
    """The one subscription of a verifier."""
    return f"se.work.{verifier}.>"


def verifier_stat(verifier: VerifierId) -> str:
    """Verifier → schedulers and observers."""
    return f"se.ver.{verifier}.stat"


def verifier_bye(verifier: VerifierId) -> str:
    """Verifier → schedulers and observers: the last word of a drained verifier."""
    return f"se.ver.{verifier}.bye"


def scheduler_stat(scheduler: SchedulerId) -> str:
    """Scheduler → observers."""
    return f"se.sch.{scheduler}.stat"


def down_session(key: SessionKey) -> str:
    """Verifier or scheduler → edge: verdict, progress, cold or rejected."""
    return f"se.dn.{key.edge}.v.{key.session}"


def down_all_sessions(edge: EdgeId) -> str:
    """The edge's one subscription for all its sessions' answers."""
    return f"se.dn.{edge}.v.>"


def down_control(edge: EdgeId) -> str:
    """Scheduler → edge."""
    return f"se.dn.{edge}.ctl"


def edge_inbox(edge: EdgeId) -> str:
    """Prefix of the edge's reply inboxes."""
    return f"se.dn.{edge}.inbox"


def service_inbox(name: str) -> str:
    """Prefix of a service's reply inboxes."""
    return f"se.inbox.{name}"


def is_own_inbox(edge: EdgeId, reply: str | None) -> bool:
    """Whether an edge's reply subject is its own. The server does not check replies: answering one
    unchecked would let an edge write to another's inbox."""
    return reply is not None and reply.startswith(edge_inbox(edge) + ".")


@lru_cache(maxsize=SUBJECTS_KNOWN)
def parse_up(subject: str) -> UpAddress | None:
    """Read an edge's subject; None if it is not one of ours."""
    match subject.split("."):
        case ["se", "up", edge, ("open" | "cancel" | "close") as kind, session]:
            return _up(Up(kind), edge, session, None)
        case ["se", "up", edge, ("ctx" | "draft" | "ahead") as kind, target, session]:
            return _up(Up(kind), edge, session, target)
    return None


def parse_work(subject: str) -> WorkAddress | None:
    """Read a verifier's work subject; None if it is not one of ours."""
    match subject.split("."):
        case ["se", "work", verifier, "batch"] if SERVICE_NAME.match(verifier):
            return WorkAddress(Work.BATCH, VerifierId(verifier))
        case ["se", "work", verifier, ("ctx" | "ahead" | "cancel" | "close") as kind, *of]:
            key = session_key(*of) if len(of) == 2 else None
            if key is not None and SERVICE_NAME.match(verifier):
                return WorkAddress(Work(kind), VerifierId(verifier), key)
    return None


@lru_cache(maxsize=1024)
def parse_verifier(subject: str) -> tuple[VerifierId, str] | None:
    """Read ``se.ver.<v>.stat`` or ``.bye``: the verifier and which of the two."""
    match subject.split("."):
        case ["se", "ver", verifier, ("stat" | "bye") as kind] if SERVICE_NAME.match(verifier):
            return VerifierId(verifier), kind
    return None


def parse_down_session(subject: str) -> SessionKey | None:
    """Read ``se.dn.<e>.v.<s>``."""
    match subject.split("."):
        case ["se", "dn", edge, "v", session]:
            return session_key(edge, session)
    return None


def session_key(edge: str, session: str) -> SessionKey | None:
    """A key if both parts are well formed."""
    if EDGE_ID.match(edge) and SESSION_ID.match(session):
        return SessionKey(EdgeId(edge), SessionId(session))
    return None


def _up(kind: Up, edge: str, session: str, target: str | None) -> UpAddress | None:
    key = session_key(edge, session)
    if key is None or (target is not None and not SERVICE_NAME.match(target)):
        return None
    return UpAddress(kind, key, target)
