"""What messages mean, as the policy's events: validated here, where bytes come in.

What is not worth an event (an unknown subject, an inbox that is somebody else's, a report that is
no good) is counted in ``metrics.dropped`` and gone. What an edge says wrongly is an event too: it
is answered in the message's own words, as far as the edge's allowance goes.
"""

from collections.abc import Callable

import orjson
import structlog

from specedge.errors import InvalidRequest
from specedge.ids import EdgeId, GroupId, SessionKey
from specedge.link.base import Message
from specedge.protocol import subjects
from specedge.protocol.codec import decode, decode_context_header
from specedge.protocol.messages import Ahead, Draft, Ending
from specedge.protocol.opening import OpenRequest, Refused
from specedge.protocol.refusals import reason_of, rejection_of
from specedge.protocol.reports import Stat
from specedge.protocol.subjects import Up
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.types import (
    AheadArrived,
    AnswerOpen,
    AnswerSession,
    BadMessageArrived,
    ByeArrived,
    ContextArrived,
    DraftArrived,
    EndingArrived,
    Event,
    OpenAsked,
    StatArrived,
)

_log = structlog.get_logger("specedge.scheduler")


def event_of_verifier(message: Message, metrics: SchedulerMetrics) -> Event | None:
    """Of a message below ``se.ver``."""
    address = subjects.parse_verifier(message.subject)
    if address is None:
        metrics.dropped.labels("unknown_subject").inc()
        return None
    verifier, kind = address
    if kind == "bye":
        return ByeArrived(verifier)
    try:
        return StatArrived(verifier, decode(Stat, message.payload))
    except InvalidRequest as error:
        metrics.dropped.labels("bad_stat").inc()
        _log.warning("stat_refused", verifier=verifier, reason=str(error))
        return None


def event_of_edge(
    message: Message,
    group: GroupId,
    metrics: SchedulerMetrics,
    is_let_in: Callable[[EdgeId, int], bool],
) -> Event | None:
    """Of a message below ``se.up``, if it is for this ``group`` of schedulers or for any.
    ``is_let_in`` says of an edge whether so many bytes of it are read; else they are lost."""
    address = subjects.parse_up(message.subject)
    if address is None or address.kind is Up.RENEW:
        metrics.dropped.labels("unknown_subject").inc()
        return None
    if address.target not in (None, group):
        metrics.dropped.labels("other_group").inc()
        return None
    key, payload = address.key, message.payload
    if not is_let_in(key.edge, len(payload)):
        metrics.dropped.labels("too_many_bytes").inc()
        return None
    if address.kind is Up.OPEN:
        return _opening(key, message, metrics)
    try:
        return _of_session(address.kind, key, payload)
    except InvalidRequest as error:
        is_hint = address.kind is Up.AHEAD  # nobody waits for an answer to it
        answer = (
            None if is_hint else AnswerSession(key, rejection_of(error, *_loose_round(payload)))
        )
        return BadMessageArrived(key, answer)


def _opening(key: SessionKey, message: Message, metrics: SchedulerMetrics) -> Event:
    if message.reply is None or not subjects.is_own_inbox(key.edge, message.reply):
        metrics.dropped.labels("foreign_inbox").inc()
        return BadMessageArrived(key)
    try:
        return OpenAsked(key, decode(OpenRequest, message.payload), message.reply)
    except InvalidRequest as error:
        refused = Refused(refused=reason_of(error), message=str(error), field=error.field)
        return BadMessageArrived(key, AnswerOpen(message.reply, refused))


def _of_session(kind: Up, key: SessionKey, payload: bytes) -> Event:
    """What an edge published, validated. Raises InvalidRequest."""
    if kind is Up.DRAFT:
        return DraftArrived(key, decode(Draft, payload))
    if kind is Up.AHEAD:
        return AheadArrived(key, decode(Ahead, payload), payload)
    if kind is Up.CONTEXT:
        return ContextArrived(key, decode_context_header(payload), payload)
    decode(Ending, payload)
    return EndingArrived(key, "cancel" if kind is Up.CANCEL else "close", payload)


def _loose_round(payload: bytes) -> tuple[int, int]:
    """Round and try as far as the bytes tell, so that the edge knows which one to give up."""
    try:
        fields = orjson.loads(payload.split(b"\n", 1)[0])
    except orjson.JSONDecodeError:
        return 0, 0
    if not isinstance(fields, dict):
        return 0, 0
    return _count(fields.get("round")), _count(fields.get("try"))


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else 0
