"""What edges' messages mean: opening, drafts, context, endings, within their allowance. Pure.

Changes the cluster's state; what is to be sent to verifiers in batches is decided elsewhere.
"""

from specedge.ids import EdgeId, GroupId, SessionKey, VerifierId
from specedge.protocol.codec import encode
from specedge.protocol.messages import Cold, Ending, Rejected
from specedge.protocol.opening import Opened, OpenRequest, Reason, Refused
from specedge_scheduler.cluster import Cluster
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.admission import (
    WaitingLine,
    keeps_places,
    opened,
    refuse_draft,
    refuse_open,
    serving,
)
from specedge_scheduler.policy.allowances import Allowances
from specedge_scheduler.policy.dispatch import has_room_for_all
from specedge_scheduler.policy.placement import better_place, home, place
from specedge_scheduler.policy.types import (
    AheadArrived,
    AnswerOpen,
    AnswerSession,
    BadMessageArrived,
    ContextArrived,
    DraftArrived,
    Effect,
    EndingArrived,
    Forward,
    OpenAsked,
    SchedulerLimits,
)
from specedge_scheduler.views import ModelKey, Session, Verifier


class Intake:
    """Takes edges' messages in. Shares the cluster with the policy that owns it."""

    def __init__(self, cluster: Cluster, group: GroupId, limits: SchedulerLimits) -> None:
        self._cluster = cluster
        self._group = group
        self._limits = limits
        self._allowances = Allowances(limits)
        self._line = WaitingLine(limits.busy_retry_ms / 1000)

    def on_bad(self, event: BadMessageArrived, now_s: float) -> list[Effect]:
        """Junk: answered while the edge's allowance lasts."""
        is_over = self._allowances.take(event.key.edge, 0, now_s) > 0
        return [] if is_over or event.answer is None else [event.answer]

    def forget_unused(self, now_s: float) -> None:
        """Drop the allowances of edges that went away."""
        self._allowances.forget_unused(self._cluster.sessions_of, now_s)

    def on_open(self, event: OpenAsked, now_s: float) -> list[Effect]:
        """Find the session a place, or say why not."""
        wait_ms = self._allowances.take(event.key.edge, 0, now_s)
        if wait_ms:
            busy = Refused(refused=Reason.BUSY, message="too many messages", retry_ms=wait_ms)
            return [AnswerOpen(event.reply_to, busy, event.request.trial)]
        if event.request.trial:
            return [AnswerOpen(event.reply_to, self._try_open(event), is_trial=True)]
        reply = self._refuse_open(event, now_s)
        if reply is not None:
            return [AnswerOpen(event.reply_to, reply)]
        candidates = serving(event.request, self._cluster.verifiers.values())
        session = self._cluster.session(event.key, now_s)
        if session.verifier is None:
            keeping = [one for one in candidates if keeps_places(one, self._limits)]
            candidates = keeping or candidates
        name = place(candidates, None, limits=self._limits, prefer=session.verifier or "")
        assert name is not None  # _refuse_open saw one that fits
        verifier = self._cluster.verifiers[name]
        self._cluster.move(session, name)
        self._line.note_place(event.key.edge)
        session.wants = verifier.model
        reply_with = opened(verifier, self._group, self._limits.max_batch_nodes)
        session.needs = reply_with.limits.model_copy(update={"context": event.request.context})
        return [AnswerOpen(event.reply_to, reply_with)]

    def _try_open(self, event: OpenAsked) -> Opened | Refused:
        """What a session that asked would be answered, as far as the pool goes."""
        refused = self._refuse_by_pool(event.request)
        if refused is not None:
            return refused
        candidates = serving(event.request, self._cluster.verifiers.values())
        name = place(candidates, None, limits=self._limits)
        assert name is not None  # _refuse_by_pool saw one that fits
        verifier = self._cluster.verifiers[name]
        return opened(verifier, self._group, self._limits.max_batch_nodes)

    def _refuse_by_pool(self, request: OpenRequest) -> Refused | None:
        limits, verifiers = self._limits, self._cluster.verifiers.values()
        is_away = self._cluster.is_away(request.model)
        return refuse_open(request, verifiers, limits, limits.busy_retry_ms, is_away=is_away)

    def _refuse_open(self, event: OpenAsked, now_s: float) -> Refused | None:
        limits, refused = self._limits, self._refuse_by_pool(event.request)
        known = self._cluster.sessions.get(event.key)
        if refused is not None:
            has_place = known is not None and known.verifier is not None
            if refused.refused is not Reason.BUSY:
                return refused
            if has_place:
                return None
            retry_ms = self._line.refuse_ms(event.key.edge, now_s)
            return refused.model_copy(update={"retry_ms": retry_ms})
        if known is None and self._has_too_many(event.key.edge):
            return Refused(
                refused=Reason.BUSY,
                message=f"at most {limits.sessions_per_edge} sessions per edge",
                retry_ms=limits.busy_retry_ms,
            )
        return None

    def on_draft(self, event: DraftArrived, now_s: float) -> list[Effect]:
        """Let the round wait for a batch, or say why not."""
        draft, key = event.draft, event.key
        session = self._cluster.sessions.get(key)
        refused = self._refuse_work(key, session, 1 + len(draft.token), now_s)
        if refused is not None:
            return [AnswerSession(key, _rejected(draft.round, draft.try_, *refused))]
        if session is None:
            session = self._cluster.session(key, now_s)
        session.heard_s, session.is_used = now_s, True
        session.at = draft.at or session.at
        if draft.try_ > 0 and (better := better_place(self._cluster, session, self._limits)):
            self._cluster.move(session, better)
        name = session.verifier or home(self._cluster, session, self._limits, now_s)
        # A try counts from its own arrival, as its edge counts it from its own sending.
        pending = PendingDraft(draft, now_s, now_s + draft.budget_ms / 1000)
        if name is not None:
            over = self.judge(session, pending, self._cluster.verifiers[name])
            if over is not None:
                return [over]
        self._cluster.set_pending(session, pending)
        return [] if session.verifier == session.at else self._close_where_it_was(session)

    def _close_where_it_was(self, session: Session) -> list[Effect]:
        """Of a session that lives elsewhere by now a verifier that was lost for a while, or was
        full, may hold a slot still."""
        was_at = session.at
        if session.verifier is None or was_at not in self._cluster.verifiers:
            return []
        return [Forward("close", VerifierId(was_at), session.key, encode(Ending()))]

    def judge(self, session: Session, pending: PendingDraft, at: Verifier) -> AnswerSession | None:
        """What the draft says of itself is news of its session and of ``at``, where that is home;
        or why it is refused: then it is nothing."""
        draft = pending.draft
        over = refuse_draft(draft, at.stat.limits)
        if over is not None and session.wants is None and draft.at not in ("", at.name):
            # Its model may be another than this verifier's: the context says.
            return AnswerSession(session.key, Cold(round=draft.round, try_=draft.try_))
        if over is not None:
            return AnswerSession(session.key, over)
        # Of rounds that nobody asked for, the ones before still waiting, the others learn nothing.
        was_asked_for = session.pending is None or session.pending is pending
        if session.rhythm.note_draft(pending) and was_asked_for:
            at.usual.note(session.rhythm)
        return None

    def on_context(self, event: ContextArrived, now_s: float) -> list[Effect]:
        """Pass the chunk on to the session's verifier, which it may have to be given first."""
        key, header = event.key, event.header
        refused = self._refuse_work(key, self._cluster.sessions.get(key), 0, now_s)
        if refused is not None:
            return [AnswerSession(key, _rejected(header.round, 0, *refused))]
        session = self._cluster.session(key, now_s)
        session.is_used = True
        session.fill_round = max(session.fill_round, header.round)
        params = header.params
        wants = ModelKey(params.model, params.weights, params.tokenizer)
        if session.wants is None or not wants.admits(session.wants):
            self._want(session, wants)
        cluster = self._cluster
        name = home(cluster, session, self._limits, now_s)
        if name is not None:
            return [Forward("ctx", name, key, event.payload)]
        may_come = not cluster.verifiers or cluster.may_turn_up(session.at, now_s)
        if may_come or cluster.is_away(params.model):
            return []  # the edge's timer brings it again when there is one
        unknown = Rejected(
            round=header.round,
            rejected=Reason.UNKNOWN_MODEL,
            message=f"no verifier serves {params.model!r}"[:1000],
            field="model",
        )
        return [AnswerSession(key, unknown)]

    def _want(self, session: Session, wants: ModelKey) -> None:
        """The session's model is known by now: it stays where that is served."""
        session.wants = wants
        name = session.verifier
        if name is not None and not wants.admits(self._cluster.verifiers[name].model):
            self._cluster.move(session, None)

    def on_ahead(self, event: AheadArrived, now_s: float) -> list[Effect]:
        """Pass it on at once, one of each round, where all sessions of the verifier fit a step:
        else it would run before others whose turn it is. A hint: without a place it is dropped."""
        key, ahead = event.key, event.ahead
        if self._allowances.take(key.edge, len(ahead.token), now_s):
            return []
        session = self._cluster.sessions.get(key)
        if session is None or session.verifier is None or ahead.round <= session.ahead_round:
            return []
        session.heard_s, session.ahead_round = now_s, ahead.round
        verifier = self._cluster.verifiers[session.verifier]
        is_small = len(ahead.token) <= verifier.stat.limits.ahead
        if not is_small or not has_room_for_all(verifier, self._limits):
            return []
        return [Forward("ahead", verifier.name, key, event.payload)]

    def on_ending(self, event: EndingArrived, now_s: float) -> list[Effect]:
        """Pass it on and forget the session."""
        session = self._cluster.sessions.get(event.key)
        home = session.verifier if session is not None else None
        has_spoken = session is not None and session.rhythm.has_begun  # else it took none
        # Of a session not known here (a restart lost it) any verifier may hold the slot.
        names = [home] if home is not None else list(self._cluster.verifiers)
        is_over = self._allowances.take(event.key.edge, 0, now_s, max(1, len(names))) > 0
        if session is None and is_over:
            return []
        self._cluster.forget(event.key)
        if home is not None and has_spoken:
            self._line.note_end(now_s)
        return [Forward(event.kind, name, event.key, event.payload) for name in names]

    def _refuse_work(
        self, key: SessionKey, session: Session | None, num_nodes: int, now_s: float
    ) -> tuple[str, int] | None:
        wait_ms = self._allowances.take(key.edge, num_nodes, now_s)
        if wait_ms:
            return "more than this edge may send", wait_ms
        if session is None and self._has_too_many(key.edge):
            return "too many sessions of this edge", self._limits.busy_retry_ms
        return None

    def _has_too_many(self, edge: EdgeId) -> bool:
        return len(self._cluster.sessions_of.get(edge, ())) >= self._limits.sessions_per_edge


def _rejected(round_: int, try_: int, message: str, retry_ms: int) -> Rejected:
    return Rejected(
        round=round_, try_=try_, rejected=Reason.BUSY, message=message, retry_ms=retry_ms
    )
