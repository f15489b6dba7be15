"""One session's way up to the cloud: the subject that each message goes to, the bytes it costs, and
what it means when the link cannot take it.
"""

import structlog

from specedge.errors import InvalidRequest, LinkDown, ProtocolViolation, SpecEdgeError
from specedge.ids import SessionKey
from specedge.link.base import Link
from specedge.protocol.codec import decode_open_reply
from specedge.protocol.effects import EdgeEvent, OpenAnswered, OpenFailed, RequestOpen, SendUp
from specedge.protocol.subjects import (
    Up,
    up_ahead,
    up_cancel,
    up_close,
    up_context,
    up_draft,
    up_open,
)
from specedge_edge.account import Account

_log = structlog.get_logger("specedge.edge")


class SessionUplink:
    """Used by the generation's task alone, whose ``account`` it fills."""

    def __init__(self, link: Link, key: SessionKey, account: Account) -> None:
        self._link = link
        self._key = key
        self._account = account

    async def open(self, effect: RequestOpen) -> EdgeEvent:
        """Ask for a place; what became of that."""
        self._account.context_bytes += len(effect.payload)
        try:
            answer = await self._link.request(
                up_open(self._key), effect.payload, timeout_s=effect.timeout_s
            )
            reply = decode_open_reply(answer)
        except SpecEdgeError as error:
            return OpenFailed(error)
        self._account.bytes_down += len(answer)
        return OpenAnswered(reply)

    async def send(self, effect: SendUp, group: str) -> None:
        """Publish it to the schedulers of ``group``. Raises InvalidRequest if no link would."""
        try:
            await self._link.publish(self._subject(effect.kind, group), effect.payload)
        except LinkDown:
            pass  # as if lost on the way: the machine's timer, or its restoration, says it again
        except InvalidRequest as error:
            _log.error("message_refused_by_link", kind=effect.kind, reason=str(error))
            raise
        if effect.kind is Up.DRAFT:
            self._account.bytes_up += len(effect.payload)
        elif effect.kind is Up.AHEAD:
            self._account.ahead_sent += 1
            self._account.bytes_up += len(effect.payload)
        else:
            self._account.context_bytes += len(effect.payload)

    def _subject(self, kind: Up, group: str) -> str:
        match kind:
            case Up.CONTEXT:
                return up_context(self._key, group)
            case Up.DRAFT:
                return up_draft(self._key, group)
            case Up.AHEAD:
                return up_ahead(self._key, group)
            case Up.CANCEL:
                return up_cancel(self._key)
            case Up.CLOSE:
                return up_close(self._key)
            case Up.OPEN | Up.RENEW:
                raise ProtocolViolation(f"{kind} is a request, not published")
