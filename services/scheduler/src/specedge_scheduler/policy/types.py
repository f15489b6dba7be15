"""What the policy is told and what it asks for. Values only.

The driver turns link messages into events, and performs effects in order.
"""

from dataclasses import dataclass
from typing import Literal

from specedge.ids import SessionKey, VerifierId
from specedge.protocol.messages import Ahead, Batch, ContextHeader, DownMessage, Draft
from specedge.protocol.opening import Opened, OpenRequest, Refused
from specedge.protocol.reports import Stat

PolicyName = Literal["static", "greedy", "jit"]
"""static: groups of sessions, each waiting for all of its own. greedy: what waits goes at once.
jit: as late and as full as keeps the verifier busy."""


@dataclass(frozen=True)
class SchedulerLimits:
    """What the scheduler allows. Every default is generous: it stops abuse, not use.

    max_batch_nodes    rows of one batch: drafted nodes, roots and appended tokens; a verifier's own
                       bound of a step's rows may lower it
    max_batches        full batches at a verifier: one runs, one is staged. The staged one is topped
                       up as rounds arrive, so it is as full as it can be when its turn comes
    sessions_per_edge  open at once
    messages_per_s, nodes_per_s   refill of an edge's two buckets; they hold ``burst_s`` worth
    bytes_per_s        of an edge's long messages; see ``Doorway``
    session_silent_s   a session without a word for so long is forgotten
    unused_s           one that was opened so long ago and nothing came of it, too
    busy_retry_ms, no_verifier_retry_ms   what a refused edge is told to wait
    lost_batch_s       a batch that its verifier does not list so long after it was sent is lost
    policy             how batches are formed; see ``PolicyName``
    max_batch_sessions  rounds of one batch; 0: rows alone bound it
    max_batch_context  KV rows that one batch attends over; 0: no bound
    objective_ms       time per token that admitted sessions are to keep; 0: none is kept
    """

    max_batch_nodes: int = 1024
    max_batches: int = 2
    sessions_per_edge: int = 64
    messages_per_s: float = 2000.0
    nodes_per_s: float = 50_000.0
    burst_s: float = 2.0
    bytes_per_s: float = 512.0 * 1024
    session_silent_s: float = 30.0
    unused_s: float = 5.0
    busy_retry_ms: int = 500
    no_verifier_retry_ms: int = 250
    lost_batch_s: float = 0.5
    policy: PolicyName = "jit"
    max_batch_sessions: int = 0
    max_batch_context: int = 0
    objective_ms: float = 0.0


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class OpenAsked:
    """An edge wants a session, and the answer at ``reply_to``, which was seen to be its own."""

    key: SessionKey
    request: OpenRequest
    reply_to: str


@dataclass(frozen=True, slots=True)
class DraftArrived:
    """A round, validated."""

    key: SessionKey
    draft: Draft


@dataclass(frozen=True, slots=True)
class ContextArrived:
    """A chunk of context: its header was validated, ``payload`` is the whole message."""

    key: SessionKey
    header: ContextHeader
    payload: bytes


@dataclass(frozen=True, slots=True)
class AheadArrived:
    """A draft sent ahead, validated; ``payload`` is the whole message."""

    key: SessionKey
    ahead: Ahead
    payload: bytes


@dataclass(frozen=True, slots=True)
class EndingArrived:
    """The edge cancelled or closed its session."""

    key: SessionKey
    kind: Literal["cancel", "close"]
    payload: bytes


@dataclass(frozen=True, slots=True)
class BadMessageArrived:
    """Bytes of an edge that were refused: they change nothing but its bucket. ``answer`` is sent if
    the bucket allows, so that junk is not answered without bound."""

    key: SessionKey
    answer: "AnswerSession | AnswerOpen | None" = None


@dataclass(frozen=True, slots=True)
class StatArrived:
    """A verifier's report."""

    verifier: VerifierId
    stat: Stat


@dataclass(frozen=True, slots=True)
class ByeArrived:
    """A drained verifier's last word."""

    verifier: VerifierId


@dataclass(frozen=True, slots=True)
class LoopStalled:
    """This process did not run for ``lag_s``: what looks late by as much is its own lateness."""

    lag_s: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """Everything that had arrived was told: now decide. Also when the wished-for moment came."""


Event = (
    OpenAsked
    | DraftArrived
    | ContextArrived
    | AheadArrived
    | EndingArrived
    | BadMessageArrived
    | StatArrived
    | ByeArrived
    | LoopStalled
    | TurnEnded
)

# ---------------------------------------------------------------- effects

LossReason = Literal["silent", "restarted", "bye", "draining"]


@dataclass(frozen=True, slots=True)
class SendBatch:
    """Publish to the verifier. ``reason`` why now, and not later or before: for metrics."""

    verifier: VerifierId
    batch: Batch
    num_nodes: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """Pass a message on as it came."""

    kind: Literal["ctx", "ahead", "cancel", "close"]
    verifier: VerifierId
    key: SessionKey
    payload: bytes


@dataclass(frozen=True, slots=True)
class AnswerSession:
    """Tell the edge about its round."""

    key: SessionKey
    message: DownMessage


@dataclass(frozen=True, slots=True)
class AnswerOpen:
    """Reply to an open request. ``is_trial``: no session wanted a place."""

    reply_to: str
    reply: Opened | Refused
    is_trial: bool = False


@dataclass(frozen=True, slots=True)
class VerifierLost:
    """Fact for logs and metrics: why a verifier's sessions move."""

    verifier: VerifierId
    why: LossReason
    num_requeued: int


@dataclass(frozen=True, slots=True)
class VerifierFound:
    """Fact for logs: a verifier reported that was not known, or not any more."""

    verifier: VerifierId
    model: str


Effect = SendBatch | Forward | AnswerSession | AnswerOpen | VerifierLost | VerifierFound
