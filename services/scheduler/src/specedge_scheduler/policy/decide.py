"""The scheduler's decisions: what each event means, and who runs what next. Pure.

Work-conserving: while rounds wait, every verifier that could run them has a batch running and one
staged. Messages that need no decision are answered or passed on at once; batches are formed at
``TurnEnded``, so that what arrived together leaves together.
"""

import math
from typing import Final, assert_never

from specedge.ids import EdgeId, GroupId, SessionKey, VerifierId
from specedge.protocol.codec import batch_item
from specedge.protocol.messages import Batch, BatchItem, Reason, Refused, Rejected
from specedge_scheduler.cluster import Cluster, ModelKey, PendingDraft, Session, Verifier
from specedge_scheduler.policy.admission import TokenBucket, opened, refuse_draft, refuse_open
from specedge_scheduler.policy.admission import serving as serving_request
from specedge_scheduler.policy.batching import BatchPlanner
from specedge_scheduler.policy.placement import place
from specedge_scheduler.policy.types import (
    AnswerOpen,
    AnswerSession,
    BadMessageArrived,
    ByeArrived,
    ContextArrived,
    DraftArrived,
    Effect,
    EndingArrived,
    Event,
    Forward,
    LoopStalled,
    LossReason,
    OpenAsked,
    SchedulerLimits,
    SendBatch,
    StatArrived,
    TurnEnded,
    VerifierLost,
)

HOUSEKEEPING_S: Final = 1.0


class _Allowance:
    """One edge's two buckets."""

    def __init__(self, limits: SchedulerLimits, now_s: float) -> None:
        burst_s = limits.burst_s
        self.messages = TokenBucket(limits.messages_per_s, limits.messages_per_s * burst_s, now_s)
        self.nodes = TokenBucket(limits.nodes_per_s, limits.nodes_per_s * burst_s, now_s)

    def take(self, num_nodes: int, now_s: float) -> int:
        """Pay for a message; 0, or the milliseconds to wait: then nothing was paid."""
        wait_ms = max(self.messages.wait_ms(now_s), self.nodes.wait_ms(now_s))
        if wait_ms == 0:
            self.messages.take(1)
            self.nodes.take(num_nodes)
        return wait_ms

    def is_unused(self, now_s: float) -> bool:
        """Whether a new one would allow as much."""
        return self.messages.is_full(now_s) and self.nodes.is_full(now_s)


class SchedulerPolicy:
    """``on(event, now_s) -> effects``. One owner; ``cluster`` is for reading only elsewhere."""

    def __init__(self, group: GroupId, epoch: tuple[int, int], limits: SchedulerLimits) -> None:
        self.cluster = Cluster(epoch)
        self._group = group
        self._limits = limits
        self._planners: dict[VerifierId, BatchPlanner] = {}
        self._allowances: dict[EdgeId, _Allowance] = {}
        self._next_deadline_s = math.inf  # no pending round expires before
        self._next_housekeeping_s = -math.inf

    def on(self, event: Event, now_s: float) -> list[Effect]:
        """Take an event in. Only ``TurnEnded`` sends batches."""
        match event:
            case DraftArrived():
                return self._on_draft(event, now_s)
            case ContextArrived():
                return self._on_context(event, now_s)
            case StatArrived():
                return self._on_stat(event, now_s)
            case OpenAsked():
                return self._on_open(event, now_s)
            case EndingArrived():
                return self._on_ending(event, now_s)
            case BadMessageArrived():
                is_over = self._allowance(event.key.edge, now_s).take(0, now_s) > 0
                return [] if is_over or event.answer is None else [event.answer]
            case ByeArrived():
                return self._lose(event.verifier, "bye")
            case LoopStalled():
                self.cluster.forgive_silence(now_s)
                return []
            case TurnEnded():
                return self._on_turn_ended(now_s)
        assert_never(event)

    def next_due_s(self) -> float:
        """When ``TurnEnded`` is wanted even if nothing arrives."""
        due_s = min(self._next_deadline_s, self._next_housekeeping_s)
        for verifier in self.cluster.verifiers.values():
            due_s = min(due_s, verifier.seen_s + verifier.gaps.patience_s)
        return due_s

    # ------------------------------------------------------------ edges

    def _on_open(self, event: OpenAsked, now_s: float) -> list[Effect]:
        reply = self._refuse_open(event, now_s)
        if reply is not None:
            return [AnswerOpen(event.reply_to, reply)]
        candidates = serving_request(event.request, self.cluster.verifiers.values())
        session = self.cluster.session(event.key, now_s)
        name = place(candidates, None, prefer=session.verifier or "")
        assert name is not None  # _refuse_open saw one that fits
        verifier = self.cluster.verifiers[name]
        self.cluster.move(session, name)
        session.wants = verifier.model
        reply_with = opened(verifier, self._group, self._limits.max_batch_nodes)
        return [AnswerOpen(event.reply_to, reply_with)]

    def _refuse_open(self, event: OpenAsked, now_s: float) -> Refused | None:
        wait_ms = self._allowance(event.key.edge, now_s).take(0, now_s)
        if wait_ms:
            return Refused(refused=Reason.BUSY, message="too many messages", retry_ms=wait_ms)
        limits = self._limits
        refused = refuse_open(
            event.request,
            self.cluster.verifiers.values(),
            no_verifier_ms=limits.no_verifier_retry_ms,
            busy_ms=limits.busy_retry_ms,
        )
        known = self.cluster.sessions.get(event.key)
        if refused is not None:
            has_place = known is not None and known.verifier is not None
            return None if refused.refused is Reason.BUSY and has_place else refused
        if known is None and self._has_too_many(event.key.edge):
            return Refused(
                refused=Reason.BUSY,
                message=f"at most {limits.sessions_per_edge} sessions per edge",
                retry_ms=limits.busy_retry_ms,
            )
        return None

    def _on_draft(self, event: DraftArrived, now_s: float) -> list[Effect]:
        draft, key = event.draft, event.key
        session = self.cluster.sessions.get(key)
        refused = self._refuse_work(key, session, 1 + len(draft.token), now_s)
        if refused is not None:
            return [AnswerSession(key, _rejected(draft.round, draft.try_, *refused))]
        session = self.cluster.session(key, now_s)
        at = self.cluster.verifiers.get(session.verifier) if session.verifier else None
        over = refuse_draft(draft, at.stat.limits) if at is not None else None
        if over is not None:
            return [AnswerSession(key, over)]
        pending = PendingDraft(draft, now_s, now_s + draft.budget_ms / 1000)
        if self.cluster.set_pending(session, pending):
            self._next_deadline_s = min(self._next_deadline_s, pending.deadline_s)
        return []

    def _on_context(self, event: ContextArrived, now_s: float) -> list[Effect]:
        key, header = event.key, event.header
        refused = self._refuse_work(key, self.cluster.sessions.get(key), 0, now_s)
        if refused is not None:
            return [AnswerSession(key, _rejected(header.round, 0, *refused))]
        session = self.cluster.session(key, now_s)
        params = header.params
        wants = ModelKey(params.model, params.weights, params.tokenizer)
        if session.wants is None or not wants.admits(session.wants):
            session.wants = wants
            self.cluster.move(session, None)
        name = self._home(session, prefer="")
        if name is not None:
            return [Forward("ctx", name, key, event.payload)]
        if not self.cluster.verifiers:
            return []  # the edge's timer brings it again when there is one
        unknown = Rejected(
            round=header.round,
            rejected=Reason.UNKNOWN_MODEL,
            message=f"no verifier serves {params.model!r}",
            field="model",
        )
        return [AnswerSession(key, unknown)]

    def _on_ending(self, event: EndingArrived, now_s: float) -> list[Effect]:
        self._allowance(event.key.edge, now_s).take(0, now_s)
        session = self.cluster.sessions.get(event.key)
        home = session.verifier if session is not None else None
        # Of a session not known here (a restart lost it) any verifier may hold the slot.
        names = [home] if home is not None else list(self.cluster.verifiers)
        self.cluster.forget(event.key)
        return [Forward(event.kind, name, event.key, event.payload) for name in names]

    def _refuse_work(
        self, key: SessionKey, session: Session | None, num_nodes: int, now_s: float
    ) -> tuple[str, int] | None:
        wait_ms = self._allowance(key.edge, now_s).take(num_nodes, now_s)
        if wait_ms:
            return "more than this edge may send", wait_ms
        if session is None and self._has_too_many(key.edge):
            return "too many sessions of this edge", self._limits.busy_retry_ms
        return None

    def _has_too_many(self, edge: EdgeId) -> bool:
        return len(self.cluster.sessions_of.get(edge, ())) >= self._limits.sessions_per_edge

    def _allowance(self, edge: EdgeId, now_s: float) -> _Allowance:
        allowance = self._allowances.get(edge)
        if allowance is None:
            allowance = self._allowances[edge] = _Allowance(self._limits, now_s)
        return allowance

    # ------------------------------------------------------------ verifiers

    def _on_stat(self, event: StatArrived, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.cluster.is_restart(event.verifier, event.stat):
            effects += self._lose(event.verifier, "restarted")
        known = self.cluster.verifiers.get(event.verifier)
        was_draining = known is not None and known.stat.draining
        self.cluster.note_stat(event.verifier, event.stat, now_s)
        verifier = self.cluster.verifiers[event.verifier]
        if verifier.stat.draining and not was_draining:
            self.cluster.empty_verifier(verifier)
            effects.append(VerifierLost(event.verifier, "draining", 0))
        return effects

    def _lose(self, name: VerifierId, why: LossReason) -> list[Effect]:
        if name not in self.cluster.verifiers:
            return []
        num_requeued = self.cluster.lose_verifier(name)
        self._planners.pop(name, None)
        self._next_deadline_s = -math.inf  # what was put back may have expired
        return [VerifierLost(name, why, num_requeued)]

    def _home(self, session: Session, prefer: str) -> VerifierId | None:
        """Where the session lives; it is placed if it has no home."""
        if session.verifier is None:
            name = place(self.cluster.verifiers.values(), session.wants, prefer=prefer)
            self.cluster.move(session, name)
        return session.verifier

    # ------------------------------------------------------------ the end of a turn

    def _on_turn_ended(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for verifier in list(self.cluster.verifiers.values()):
            if verifier.is_silent(now_s):
                effects += self._lose(verifier.name, "silent")
            elif verifier.sent:
                self.cluster.recover_lost(verifier, now_s - self._limits.lost_batch_s)
        if now_s >= self._next_deadline_s:
            effects += self._expire(now_s)
        if now_s >= self._next_housekeeping_s:
            self._keep_house(now_s)
        if self.cluster.waiting:
            effects += self._send_batches(now_s)
        return effects

    def _expire(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        self._next_deadline_s = math.inf
        for key, session in list(self.cluster.waiting.items()):
            pending = session.pending
            assert pending is not None
            if pending.deadline_s > now_s:
                self._next_deadline_s = min(self._next_deadline_s, pending.deadline_s)
                continue
            self.cluster.drop_pending(session)
            draft = pending.draft
            expired = Rejected(
                round=draft.round,
                try_=draft.try_,
                rejected=Reason.EXPIRED,
                message="the round's deadline passed before a verifier could take it",
            )
            effects.append(AnswerSession(key, expired))
        return effects

    def _keep_house(self, now_s: float) -> None:
        self._next_housekeeping_s = now_s + HOUSEKEEPING_S
        silent_since_s = now_s - self._limits.session_silent_s
        for key, session in list(self.cluster.sessions.items()):
            if session.heard_s < silent_since_s:
                self.cluster.forget(key)
        for edge, allowance in list(self._allowances.items()):
            if edge not in self.cluster.sessions_of and allowance.is_unused(now_s):
                del self._allowances[edge]

    def _send_batches(self, now_s: float) -> list[Effect]:
        waiting: dict[VerifierId, dict[SessionKey, PendingDraft]] = {}
        for key, session in self.cluster.waiting.items():
            pending = session.pending
            assert pending is not None
            name = self._home(session, prefer=pending.draft.at)
            if name is not None:
                waiting.setdefault(name, {})[key] = pending
        effects: list[Effect] = []
        for name, rounds in waiting.items():
            verifier = self.cluster.verifiers[name]
            while rounds and len(verifier.sent) < self._limits.max_batches:
                effects.append(self._send_batch(verifier, rounds, now_s))
        return effects

    def _send_batch(
        self, verifier: Verifier, rounds: dict[SessionKey, PendingDraft], now_s: float
    ) -> SendBatch:
        planner = self._planners.setdefault(verifier.name, BatchPlanner())
        chosen = tuple(planner.plan(rounds, self._limits.max_batch_nodes))
        for key, _ in chosen:
            del rounds[key]
        batch = Batch.model_construct(
            epoch=self.cluster.epoch,
            seq=self.cluster.note_sent(verifier, chosen, now_s),
            items=tuple(_item(key, pending, now_s) for key, pending in chosen),
        )
        return SendBatch(verifier.name, batch, sum(pending.num_rows for _, pending in chosen))


def _item(key: SessionKey, pending: PendingDraft, now_s: float) -> BatchItem:
    """The draft as it goes on, with what is left of its time."""
    left_ms = max(0, int((pending.deadline_s - now_s) * 1000))
    held_ms = (now_s - pending.arrived_s) * 1000
    return batch_item(pending.draft, key, budget_ms=left_ms, held_ms=held_ms)


def _rejected(round_: int, try_: int, message: str, retry_ms: int) -> Rejected:
    return Rejected(
        round=round_, try_=try_, rejected=Reason.BUSY, message=message, retry_ms=retry_ms
    )
