"""What somebody of a role must be able to say and hear, and what a curious one will try in vain.

The table of roles says what is allowed; this says what follows, in subjects that somebody would
really use, so that the one can be held against the other on a running broker. Values only.
Nothing here does harm where it gets through: sessions, edges and services named here do not exist.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from specedge.credentials.roles import Role

STRANGER: Final = "U" + "A" * 55  # well-formed enough for a subject, nobody's key
OTHER: Final = "somebody-else"
SESSION: Final = "0" * 32
QUEUE: Final = "curious"


class Verb(StrEnum):
    """What is tried with a subject."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try. ``queue`` names a queue group to subscribe in; ``is_allowed`` what must come out."""

    verb: Verb
    subject: str
    is_allowed: bool
    queue: str | None = None

    def __str__(self) -> str:
        group = "" if self.queue is None else f" in a queue group, {self.queue}"
        return f"{self.verb} {self.subject}{group}"


# Nobody's business: other people's inboxes, the server's own affairs, and all at once.
_NOBODY_HEARS: Final = (
    ">", "*", "*.>", "*.*.>", "*.*.*.*", "se.>", "se.*.>", "*.up.>", "*.dn.>",
    "_INBOX.>", "_INBOX.*.*", "_R_.>", "$SYS.>", "$SYS.ACCOUNT.>", "$JS.>", "$JS.API.>",
    "$JS.EVENT.>", "$KV.>", "$KV.lease.>", "$SRV.>", "$O.>", "$G.>",
    "se.dn.>", "se.dn.*.>", "se.dn.*.v.>", f"se.dn.{STRANGER}.>", f"se.dn.{STRANGER}.inbox.>",
    "se.inbox.>", f"se.inbox.{OTHER}.>", "se.work.>", f"se.work.{OTHER}.>",
)  # fmt: skip
_NOBODY_SAYS: Final = (
    "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO", "$SYS.REQ.CLAIMS.UPDATE",
    "$SRV.PING", "_INBOX.x.y", "_R_.x", "se.sch.somebody-else.stat", "se.ver.somebody-else.stat",
    f"se.up.{STRANGER}.open.{SESSION}", f"se.up.{STRANGER}.draft.main.{SESSION}",
    f"se.up.{STRANGER}.ahead.main.{SESSION}",
    f"se.up.*.open.{SESSION}", "se.up.>",
)  # fmt: skip
_ONLY_SCHEDULERS_SAY: Final = (
    "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.x", "$KV.lease.leader",
    f"se.work.{OTHER}.batch", f"se.dn.{STRANGER}.ctl", f"se.dn.{STRANGER}.inbox.x.y",
    f"se.inbox.{OTHER}.x.y",
)  # fmt: skip


def attempts_of(role: Role, *, name: str, public_key: str) -> tuple[Attempt, ...]:
    """All tries for somebody called ``name``: what has to work, then what must not."""
    match role:
        case Role.EDGE:
            allowed, denied = _edge_may(public_key), _edge_may_not(public_key)
        case Role.VERIFIER:
            allowed, denied = _verifier_may(name), _verifier_may_not(name)
        case Role.SCHEDULER:
            allowed, denied = _scheduler_may(name), _scheduler_may_not()
        case Role.OBSERVER:
            allowed = _tries(True, hears=("se.ver.>", "se.sch.>", "se.ver.verifier-1.stat"))
            denied = _tries(False, says=(*_ONLY_SCHEDULERS_SAY, *_of_edges()), hears=("se.up.>",))
        case _:
            assert_never(role)
    nobody = _tries(False, says=_NOBODY_SAYS, hears=_NOBODY_HEARS)
    return (*allowed, *denied, *nobody)


def _edge_may(key: str) -> tuple[Attempt, ...]:
    return _tries(
        True,
        says=(
            f"se.up.{key}.open.{SESSION}",
            f"se.up.{key}.ctx.main.{SESSION}",
            f"se.up.{key}.draft.main.{SESSION}",
            f"se.up.{key}.ahead.main.{SESSION}",
            f"se.up.{key}.cancel.{SESSION}",
            f"se.up.{key}.close.{SESSION}",
            f"se.up.{key}.renew",
        ),
        hears=(f"se.dn.{key}.v.>", f"se.dn.{key}.ctl", f"se.dn.{key}.inbox.x.*"),
    )


def _edge_may_not(key: str) -> tuple[Attempt, ...]:
    return _tries(
        False,
        says=(
            *_ONLY_SCHEDULERS_SAY,
            f"se.dn.{key}.v.{SESSION}",  # a verdict for itself
            f"se.dn.{key}.ctl",
            f"se.dn.{STRANGER}.v.{SESSION}",
            f"se.up.{key}",  # below its key, not at it
            f"se.up.{key.lower()}.open.{SESSION}",
            "se.ver.verifier-1.stat",
            "se.sch.scheduler-1.stat",
            "se.work.verifier-1.batch",
        ),
        hears=(
            "se.up.>", f"se.up.{key}.>", f"se.up.{STRANGER}.>", "se.ver.>", "se.sch.>",
            f"se.*.{key}.>", f"*.*.{key}.>", f"*.dn.{key}.>", f"se.dn.{key}",
            "se.work.verifier-1.>", "se.inbox.scheduler-1.>",
        ),
    )  # fmt: skip


def _verifier_may(name: str) -> tuple[Attempt, ...]:
    return _tries(
        True,
        says=(f"se.dn.{STRANGER}.v.{SESSION}", f"se.ver.{name}.stat", f"se.ver.{name}.bye"),
        hears=(f"se.work.{name}.>", f"se.up.*.draft.{name}.*", f"se.inbox.{name}.x.*"),
    )


def _verifier_may_not(name: str) -> tuple[Attempt, ...]:
    return _tries(
        False,
        says=(*_ONLY_SCHEDULERS_SAY, f"se.work.{name}.batch", f"se.sch.{name}.stat"),
        hears=("se.up.>", "se.up.*.draft.>", "se.up.*.draft.main.*", "se.ver.>", "se.sch.>"),
    )


def _scheduler_may(name: str) -> tuple[Attempt, ...]:
    return _tries(
        True,
        says=(*_ONLY_SCHEDULERS_SAY, f"se.dn.{STRANGER}.v.{SESSION}", f"se.sch.{name}.stat"),
        hears=("se.up.>", "se.ver.>", "se.sch.>", f"se.inbox.{name}.x.*"),
    )


def _scheduler_may_not() -> tuple[Attempt, ...]:
    return _tries(
        False,
        says=("se.ver.verifier-1.stat", "$KV.other.x", "se.other"),
        hears=("se.work.verifier-1.>", "$JS.API.INFO"),
    )


def _of_edges() -> tuple[str, ...]:
    return (f"se.up.{STRANGER}.close.{SESSION}", f"se.dn.{STRANGER}.v.{SESSION}")


def _tries(
    is_allowed: bool, *, says: Iterable[str] = (), hears: Iterable[str] = ()
) -> tuple[Attempt, ...]:
    """What may be heard may be heard in a queue group, and what may not, may not."""
    heard = tuple(hears)
    return (
        *(Attempt(Verb.PUBLISH, subject, is_allowed) for subject in says),
        *(Attempt(Verb.SUBSCRIBE, subject, is_allowed) for subject in heard),
        *(Attempt(Verb.SUBSCRIBE, subject, is_allowed, QUEUE) for subject in heard),
    )
