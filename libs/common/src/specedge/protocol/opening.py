"""How a session gets a place: what an edge asks, what it is told of the model and its limits, and
why it may be refused.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from specedge.protocol.body import (
    PROTOCOL_VERSION,
    Body,
    Count,
    Fingerprint,
    Name,
    Part,
    ServiceName,
    TokenIdField,
)


class Identity(Part):
    """A model as the handshake compares it; see ``specedge.engine.ports.ModelIdentity``.

    weights  of the weights and of what they are computed in
    dtype    what that is, for people
    """

    model: Name
    revision: str = Field(default="", max_length=200)
    weights: Fingerprint
    tokenizer: Fingerprint
    vocab_size: Annotated[int, Field(ge=1, lt=2**31)]
    stop: tuple[TokenIdField, ...] = Field(default=(), max_length=64)
    max_context: Annotated[int, Field(ge=1, lt=2**31)]
    dtype: str = Field(default="", max_length=20)


class Limits(Part):
    """What a session may ask for.

    nodes    drafted nodes a round
    append   committed tokens a draft may carry; more go as context
    context  prompt plus generated tokens
    grant    tokens of one hosted grant; 0: hosted sessions are not offered
    ahead    nodes of a draft sent ahead; 0: they are not taken
    """

    nodes: Count
    append: Count
    context: Count
    grant: Count
    ahead: Count = 0


class OpenRequest(Body):
    """Edge → scheduler. Idempotent: asking again gives the same session a place again.

    trial  only asks what would be answered: no place is taken, and none is given back
    """

    model: Name
    tokenizer: Fingerprint
    versions: tuple[Count, ...] = Field(default=(PROTOCOL_VERSION,), max_length=16, fail_fast=True)
    context: Annotated[int, Field(ge=1, lt=2**31)]
    drafter: str = Field(default="", max_length=200)
    trial: bool = False


class Opened(Body):
    """Scheduler → edge: the session has a place."""

    at: ServiceName
    group: ServiceName
    limits: Limits
    identity: Identity


class Reason(StrEnum):
    """Why something was refused or rejected. The first four may succeed later."""

    BUSY = "busy"
    EXPIRED = "expired"
    NO_VERIFIER = "no_verifier"
    DRAINING = "draining"
    UNKNOWN_MODEL = "unknown_model"
    FINGERPRINT = "fingerprint"
    VERSION = "version"
    TOO_LONG = "too_long"
    OVER_LIMIT = "over_limit"
    INVALID = "invalid"


RETRYABLE_REASONS: Final = frozenset(
    {Reason.BUSY, Reason.EXPIRED, Reason.NO_VERIFIER, Reason.DRAINING}
)


class Refused(Body):
    """Scheduler → edge: no session. ``ours`` and ``theirs`` on a fingerprint mismatch: the
    verifier's and the edge's."""

    refused: Annotated[Reason, Field(strict=False)]
    message: str = Field(max_length=1000)
    field: str = Field(default="", max_length=100)
    retry_ms: Count | None = None
    ours: str | None = None
    theirs: str | None = None
