"""The scheduler's decisions: what each event means, and who runs what next. Pure.

Work-conserving: while rounds wait, every verifier that could run them has a batch running and a
full one staged. Messages that need no decision are answered or passed on at once; batches are
formed at ``TurnEnded``, so that what arrived together leaves together.
"""

import math
from collections.abc import Mapping
from typing import Final, assert_never

from specedge.ids import GroupId, SessionKey, VerifierId
from specedge.protocol.codec import batch_item
from specedge.protocol.messages import Batch, BatchItem, Reason, Rejected
from specedge_scheduler.cluster import Cluster
from specedge_scheduler.policy.batching import BatchPlanner
from specedge_scheduler.policy.intake import Intake
from specedge_scheduler.policy.placement import home
from specedge_scheduler.policy.types import (
    AnswerSession,
    BadMessageArrived,
    ByeArrived,
    ContextArrived,
    DraftArrived,
    Effect,
    EndingArrived,
    Event,
    LoopStalled,
    LossReason,
    OpenAsked,
    SchedulerLimits,
    SendBatch,
    StatArrived,
    TurnEnded,
    VerifierFound,
    VerifierLost,
)
from specedge_scheduler.views import PendingDraft, Verifier

HOUSEKEEPING_S: Final = 1.0

Rounds = tuple[tuple[SessionKey, PendingDraft], ...]


class SchedulerPolicy:
    """``on(event, now_s) -> effects``. One owner; ``cluster`` is for reading only elsewhere."""

    def __init__(self, group: GroupId, epoch: tuple[int, int], limits: SchedulerLimits) -> None:
        self.cluster = Cluster(epoch)
        self._intake = Intake(self.cluster, group, limits)
        self._limits = limits
        self._planners: dict[VerifierId, BatchPlanner] = {}
        self._next_housekeeping_s = -math.inf

    def on(self, event: Event, now_s: float) -> list[Effect]:
        """Take an event in. Only ``TurnEnded`` sends batches."""
        match event:
            case DraftArrived():
                return self._intake.on_draft(event, now_s)
            case ContextArrived():
                return self._intake.on_context(event, now_s)
            case StatArrived():
                return self._on_stat(event, now_s)
            case OpenAsked():
                return self._intake.on_open(event, now_s)
            case EndingArrived():
                return self._intake.on_ending(event, now_s)
            case BadMessageArrived():
                return self._intake.on_bad(event, now_s)
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
        due_s = min(self.cluster.next_deadline_s, self._next_housekeeping_s)
        for verifier in self.cluster.verifiers.values():
            due_s = min(due_s, verifier.seen_s + verifier.gaps.patience_s)
        return due_s

    # ------------------------------------------------------------ verifiers

    def _on_stat(self, event: StatArrived, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.cluster.is_restart(event.verifier, event.stat):
            effects += self._lose(event.verifier, "restarted")
        known = self.cluster.verifiers.get(event.verifier)
        if known is None:
            effects.append(VerifierFound(event.verifier, event.stat.identity.model))
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
        return [VerifierLost(name, why, num_requeued)]

    # ------------------------------------------------------------ the end of a turn

    def _on_turn_ended(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for verifier in list(self.cluster.verifiers.values()):
            if verifier.is_silent(now_s):
                effects += self._lose(verifier.name, "silent")
            elif verifier.sent:
                self.cluster.recover_lost(verifier, now_s - self._limits.lost_batch_s)
        if now_s >= self.cluster.next_deadline_s:
            effects += self._expire(now_s)
        if now_s >= self._next_housekeeping_s:
            self._keep_house(now_s)
        if self.cluster.waiting:
            effects += self._send_batches(now_s)
        return effects

    def _expire(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for key, pending in self.cluster.take_expired(now_s):
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
        self._intake.forget_unused(now_s)

    def _send_batches(self, now_s: float) -> list[Effect]:
        waiting: dict[VerifierId, dict[SessionKey, PendingDraft]] = {}
        for key, session in self.cluster.waiting.items():
            pending = session.pending
            assert pending is not None
            name = home(self.cluster, session, prefer=pending.draft.at)
            if name is not None:
                waiting.setdefault(name, {})[key] = pending
        effects: list[Effect] = []
        for name, rounds in waiting.items():
            verifier = self.cluster.verifiers[name]
            while rounds and (chosen := self._choose(verifier, rounds)):
                for key, _ in chosen:
                    del rounds[key]
                effects.append(self._send_batch(verifier, chosen, now_s))
        return effects

    def _choose(self, verifier: Verifier, rounds: Mapping[SessionKey, PendingDraft]) -> Rounds:
        """What of ``rounds`` is sent now: as much as the running and the staged batch leave room
        for, and at least one round if the verifier has nothing."""
        batch_rows = self._limits.max_batch_nodes
        if verifier.stat.step_rows:
            batch_rows = min(batch_rows, verifier.stat.step_rows)
        num_sent = verifier.num_rows_sent
        room = min(batch_rows, self._limits.max_batches * batch_rows - num_sent)
        if room <= 0:
            return ()
        planner = self._planners.setdefault(verifier.name, BatchPlanner())
        return tuple(planner.plan(rounds, room, at_least_one=num_sent == 0))

    def _send_batch(self, verifier: Verifier, chosen: Rounds, now_s: float) -> SendBatch:
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
