"""Identifiers. Each is its own type, so that a slot is never passed for a position."""

import re
from typing import Final, NamedTuple, NewType

EdgeId = NewType("EdgeId", str)  # the edge's public NKey, "U…", 56 characters
SessionId = NewType("SessionId", str)  # 128 random bits in hex, made by the edge
VerifierId = NewType("VerifierId", str)
SchedulerId = NewType("SchedulerId", str)
GroupId = NewType("GroupId", str)  # a scheduler group: the <target> of an edge's subjects
Round = NewType("Round", int)  # per session, from 0
Slot = NewType("Slot", int)  # a lease in a KV cache

SERVICE_NAME: Final = re.compile(r"^[a-z0-9-]{1,32}\Z")
EDGE_ID: Final = re.compile(r"^U[A-Z2-7]{55}\Z")
SESSION_ID: Final = re.compile(r"^[0-9a-f]{32}\Z")


class SessionKey(NamedTuple):
    """What names a session everywhere: both parts come from the subject, never from a body."""

    edge: EdgeId
    session: SessionId


class Epoch(NamedTuple):
    """A scheduler's term of leadership; compared as a tuple, a later term is greater."""

    created_ns: int
    revision: int
