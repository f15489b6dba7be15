"""The scheduler's decisions: what each event means, and who runs what next. Pure.

Messages that need no decision are answered or passed on at once; batches are formed at
``TurnEnded``, so that what arrived together leaves together, by the ``Dispatch`` of each verifier
of which something new is known. It may ask to be asked again: ``next_due_s`` says when.
"""

import math
from heapq import heappop, heappush
from typing import Final, assert_never

from specedge.ids import GroupId, SessionKey, VerifierId
from specedge.protocol.codec import batch_item
from specedge.protocol.messages import Batch, BatchItem, Rejected
from specedge.protocol.opening import Reason
from specedge_scheduler.cluster import Cluster
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.dispatch import Dispatch, GreedyDispatch, Plan, StaticDispatch
from specedge_scheduler.policy.intake import Intake
from specedge_scheduler.policy.just_in_time import JustInTimeDispatch
from specedge_scheduler.policy.migration import Migration
from specedge_scheduler.policy.placement import home
from specedge_scheduler.policy.types import (
    AheadArrived,
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
from specedge_scheduler.views import Verifier

HOUSEKEEPING_S: Final = 1.0


class SchedulerPolicy:
    """``on(event, now_s) -> effects``. One owner; ``cluster`` is for reading only elsewhere."""

    def __init__(self, group: GroupId, epoch: tuple[int, int], limits: SchedulerLimits) -> None:
        self.group = group
        self.cluster = Cluster(epoch)
        self._intake = Intake(self.cluster, group, limits)
        self._migration = Migration(self.cluster, limits)
        self.limits = limits
        self._dispatches: dict[VerifierId, Dispatch] = {}
        self._wakes: dict[VerifierId, float] = {}  # when to ask about a verifier again
        self._alarms: list[tuple[float, VerifierId]] = []  # the same as a heap, and old ones
        self._next_silence_s = math.inf  # nobody is silent for too long before
        self._next_housekeeping_s = -math.inf

    def on(self, event: Event, now_s: float) -> list[Effect]:
        """Take an event in. Only ``TurnEnded`` sends batches."""
        match event:
            case DraftArrived():  # the usual ones first
                return self._intake.on_draft(event, now_s)
            case TurnEnded():
                return self._on_turn_ended(now_s)
            case AheadArrived() | ContextArrived():
                return self._pass_on(event, now_s)
            case StatArrived():
                return self._on_stat(event, now_s)
            case OpenAsked():
                return self._intake.on_open(event, now_s)
            case EndingArrived():
                return self._intake.on_ending(event, now_s)
            case BadMessageArrived():
                return self._intake.on_bad(event, now_s)
            case ByeArrived():
                return self._on_bye(event.verifier)
            case LoopStalled():
                self.cluster.forgive_silence(event.lag_s, now_s)
                return []
        assert_never(event)

    def next_due_s(self) -> float:
        """When ``TurnEnded`` is wanted even if nothing arrives."""
        cluster = self.cluster
        wake_s = self._alarms[0][0] if self._alarms else math.inf
        if cluster.homeless and cluster.settled_s > -math.inf:
            wake_s = min(wake_s, cluster.settled_s)
        return min(wake_s, cluster.next_deadline_s, self._next_silence_s, self._next_housekeeping_s)

    def _pass_on(self, event: AheadArrived | ContextArrived, now_s: float) -> list[Effect]:
        if isinstance(event, AheadArrived):
            return self._intake.on_ahead(event, now_s)
        return self._intake.on_context(event, now_s)

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
        self._next_silence_s = min(self._next_silence_s, verifier.silent_s)
        num_lost = self.cluster.recover_lost(verifier, now_s - self.limits.lost_batch_s)
        self.cluster.term.note_lost(verifier, num_lost, now_s)
        if verifier.stat.draining and not was_draining:
            self.cluster.empty_verifier(verifier)
            effects.append(VerifierLost(event.verifier, "draining", 0))
        return effects

    def _on_bye(self, name: VerifierId) -> list[Effect]:
        """Of one that drained it was told already that it is lost, but not what it had left."""
        known = self.cluster.verifiers.get(name)
        was_told = known is not None and known.stat.draining
        effects = self._lose(name, "bye")
        has_left = any(isinstance(one, VerifierLost) and one.num_requeued for one in effects)
        return [] if was_told and not has_left else effects

    def _lose(self, name: VerifierId, why: LossReason) -> list[Effect]:
        if name not in self.cluster.verifiers:
            return []
        num_requeued = self.cluster.lose_verifier(name, is_gone=why != "silent")
        self._dispatches.pop(name, None)
        self._wakes.pop(name, None)
        return [VerifierLost(name, why, num_requeued)]

    # ------------------------------------------------------------ the end of a turn

    def _on_turn_ended(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if -math.inf < self.cluster.settled_s <= now_s:
            self.cluster.settled_s = -math.inf
            self.cluster.seek_places()
        if now_s >= self._next_silence_s:
            effects += self._lose_silent(now_s)
        if now_s >= self.cluster.next_deadline_s:
            effects += self._expire(now_s)
        if now_s >= self._next_housekeeping_s:
            effects += self._keep_house(now_s)
        return effects + self._send_batches(now_s)

    def _lose_silent(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for verifier in list(self.cluster.verifiers.values()):
            if verifier.is_silent(now_s):
                effects += self._lose(verifier.name, "silent")
        silent_s = (verifier.silent_s for verifier in self.cluster.verifiers.values())
        self._next_silence_s = min(silent_s, default=math.inf)
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

    def _keep_house(self, now_s: float) -> list[Effect]:
        self._next_housekeeping_s = now_s + HOUSEKEEPING_S
        silent_since_s = now_s - self.limits.session_silent_s
        unused_since_s = now_s - self.limits.unused_s
        for key, session in list(self.cluster.sessions.items()):
            # To ask for a place again and again is no use of it.
            is_unused = not session.is_used and session.opened_s < unused_since_s
            if is_unused or session.heard_s < silent_since_s:
                self.cluster.forget(key)
        self._intake.forget_unused(now_s)
        return self._migration.rebalance(now_s)

    def _send_batches(self, now_s: float) -> list[Effect]:
        """Ask about every verifier of which something new is known, or whose moment came."""
        effects = self._place_homeless(now_s) if self.cluster.homeless else []
        names = self.cluster.changed
        while self._alarms and self._alarms[0][0] <= now_s:
            at_s, name = heappop(self._alarms)
            if self._wakes.get(name) == at_s:  # else another moment was wished for since
                del self._wakes[name]
                names.add(name)
        if not names:
            return effects
        in_order = sorted(names)
        names.clear()
        for name in in_order:
            verifier = self.cluster.verifiers.get(name)
            if verifier is not None:
                effects += self._dispatch(verifier, now_s)
        return effects

    def _place_homeless(self, now_s: float) -> list[Effect]:
        """Sessions whose rounds wait get a verifier, as far as there are any, unless the one where
        they were is likely to turn up. What a round may ask for is known only now."""
        refusals: list[Effect] = []
        for session in self.cluster.take_seekers():
            pending = session.pending
            assert pending is not None
            name = home(self.cluster, session, self.limits, now_s)
            if name is None:
                continue
            over = self._intake.judge(session, pending, self.cluster.verifiers[name])
            if over is not None:
                self.cluster.drop_pending(session)
                refusals.append(over)
        return refusals

    def _dispatch(self, verifier: Verifier, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        while verifier.waiting:
            if verifier.name not in self._dispatches:
                self._dispatches[verifier.name] = make_dispatch(self.limits)
            plan = self._dispatches[verifier.name].plan(verifier, now_s)
            if not plan.rounds:
                self._wake_at(verifier.name, plan.wake_s)
                verifier.deaf_until_s = plan.wake_s
                verifier.deaf_below = plan.deaf_below
                break
            effects.append(self._send_batch(verifier, plan, now_s))
        self.cluster.changed.discard(verifier.name)
        return effects

    def _wake_at(self, name: VerifierId, at_s: float) -> None:
        if self._wakes.get(name) != at_s:
            self._wakes[name] = at_s
            if at_s < math.inf:
                heappush(self._alarms, (at_s, name))

    def _send_batch(self, verifier: Verifier, plan: Plan, now_s: float) -> SendBatch:
        next_s = plan.next_s or {}
        batch = Batch.model_construct(
            epoch=self.cluster.epoch,
            seq=self.cluster.note_sent(verifier, plan.rounds, plan.nodes, now_s),
            # By way of a list: a tuple made by a generator ends up in a free list that nothing
            # takes from, so that memory seems to grow.
            items=tuple(
                [
                    _item(key, pending, now_s, next_s.get(key, 0.0), plan.nodes)
                    for key, pending in plan.rounds
                ]
            ),
        )
        num_rows = sum([pending.rows_of(plan.nodes) for _, pending in plan.rounds])
        return SendBatch(verifier.name, batch, num_rows, plan.reason)


def make_dispatch(limits: SchedulerLimits) -> Dispatch:
    """For one verifier, as the settings say."""
    match limits.policy:
        case "static":
            return StaticDispatch(limits)
        case "greedy":
            return GreedyDispatch(limits)
        case "jit":
            return JustInTimeDispatch(limits)
    assert_never(limits.policy)


def _item(
    key: SessionKey, pending: PendingDraft, now_s: float, next_s: float, max_nodes: int
) -> BatchItem:
    """The draft as it goes on, with what is left of its time."""
    left_ms = max(0, int((pending.deadline_s - now_s) * 1000))
    return batch_item(
        pending.draft,
        key,
        budget_ms=left_ms,
        held_ms=(now_s - pending.arrived_s) * 1000,
        next_ms=next_s * 1000,
        max_nodes=max_nodes,
    )
