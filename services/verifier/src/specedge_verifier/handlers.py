"""What comes in on this verifier's work subject: bytes become events of the sessions' machines.

Decodes, checks ids against the vocabulary, fences off schedulers of earlier terms. Whatever the
bytes are, nothing raises out of here and no other session is touched; what leads to nothing is
counted.
"""

from collections.abc import Callable

import structlog

from specedge.clock import Clock
from specedge.errors import InvalidRequest
from specedge.ids import SessionKey
from specedge.link.base import Message
from specedge.protocol import subjects
from specedge.protocol.batch_ledger import BatchLedger
from specedge.protocol.codec import decode, decode_context, decode_context_header
from specedge.protocol.messages import Ahead, Batch, DownMessage
from specedge.protocol.refusals import rejection_of
from specedge.protocol.subjects import Work
from specedge.protocol.verifier_effects import AheadArrived, ContextArrived, WorkArrived
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.sessions import SessionTable

_log = structlog.get_logger("specedge.verifier")


class WorkHandler:
    """``on_message`` is the handler of the one subscription ``se.work.<v>.>``."""

    def __init__(
        self,
        *,
        table: SessionTable,
        ledger: BatchLedger,
        clock: Clock,
        metrics: VerifierMetrics,
        vocab_size: int,
        say: Callable[[SessionKey, DownMessage], None],
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._vocab_size = vocab_size
        self._say = say

    def on_message(self, message: Message) -> None:
        """Take one message in."""
        address = subjects.parse_work(message.subject)
        if address is None:
            self._drop("unknown_subject")
            return
        match address.kind, address.key:
            case Work.BATCH, _:
                self._on_batch(message.payload)
            case Work.CONTEXT, SessionKey() as key:
                self._on_context(key, message.payload)
            case Work.AHEAD, SessionKey() as key:
                self._on_ahead(key, message.payload)
            case ((Work.CANCEL | Work.CLOSE), SessionKey() as key):
                if not self._table.end(key):
                    self._drop("unknown_session")
            case _:
                self._drop("unknown_subject")

    def _on_batch(self, payload: bytes) -> None:
        try:
            batch = decode(Batch, payload)
        except InvalidRequest as error:
            self._drop("bad_batch")
            _log.warning("batch_refused", reason=str(error))
            return
        if not self._ledger.admit(batch):
            self._drop("stale_epoch")
            return
        now_s = self._clock.now_s()
        for item in batch.items:
            key = subjects.session_key(item.e, item.s)
            if key is None:
                self._drop("bad_key")
                continue
            # Counted before it is told: an answer given at once settles it at once.
            self._ledger.add(batch.seq, key)
            self._table.hear(key, WorkArrived(item, now_s + item.budget_ms / 1000))

    def _on_context(self, key: SessionKey, payload: bytes) -> None:
        try:
            header, ids = decode_context(payload, self._vocab_size)
        except InvalidRequest as error:
            self._drop("bad_context")
            self._reject_context(key, payload, error)
            return
        self._table.hear(key, ContextArrived(header, ids))

    def _on_ahead(self, key: SessionKey, payload: bytes) -> None:
        try:
            ahead = decode(Ahead, payload)
        except InvalidRequest:
            self._drop("bad_ahead")
            return
        if not self._table.hint(key, AheadArrived(ahead)):
            self._drop("unknown_session")

    def _reject_context(self, key: SessionKey, payload: bytes, error: InvalidRequest) -> None:
        """Tell the edge which round its context was for, if the header at least is sound."""
        try:
            header = decode_context_header(payload)
        except InvalidRequest:
            return
        self._say(key, rejection_of(error, header.round))

    def _drop(self, reason: str) -> None:
        self._metrics.dropped.labels(reason).inc()
