"""What is known of the pool: verifiers by their reports, sessions and where they live. Pure.

Soft state, all of it: a scheduler that starts anew learns the verifiers from their next reports and
the sessions from their next drafts. Decides nothing; ``policy`` does. One owner, the driver's task.
"""

import math

from specedge.ids import EdgeId, SessionId, SessionKey, VerifierId
from specedge.protocol.reports import Stat
from specedge_scheduler.pipeline import PendingDraft, SentBatch
from specedge_scheduler.term import Term
from specedge_scheduler.views import MIN_SILENCE_S, GapWindow, ModelKey, Session, Verifier


class Cluster:
    """Everything known. Methods change it by one fact each and keep the indexes in step."""

    def __init__(self, epoch: tuple[int, int]) -> None:
        self.term = Term(epoch)
        self.verifiers: dict[VerifierId, Verifier] = {}
        self.models: set[str] = set()  # of all verifiers that were ever known
        self.sessions: dict[SessionKey, Session] = {}
        self.waiting: dict[SessionKey, Session] = {}  # those with a pending round, oldest first
        self.homeless: dict[SessionKey, Session] = {}  # of these, whose session has no verifier
        self._may_place = False  # these may find a place now that found none before
        self.sessions_of: dict[EdgeId, set[SessionKey]] = {}
        self.changed: set[VerifierId] = set()  # of whom something new is known; others clear it
        self._num_sessions = 0
        self.next_deadline_s = math.inf  # no waiting round expires before
        # Until then verifiers whose sessions speak may still turn up: nobody was known, and each
        # is to be heard of within a few heartbeats.
        self.settled_s = -math.inf
        self._gone: set[VerifierId] = set()  # that said so, or came back as others
        self._next_seq: dict[VerifierId, int] = {}

    # ------------------------------------------------------------ verifiers

    @property
    def epoch(self) -> tuple[int, int]:
        """Of this scheduler's term."""
        return self.term.key

    def is_restart(self, name: VerifierId, stat: Stat) -> bool:
        """Whether a report comes from another incarnation than the one known."""
        known = self.verifiers.get(name)
        return known is not None and known.stat.inc != stat.inc

    def note_stat(self, name: VerifierId, stat: Stat, now_s: float) -> None:
        """Take a report in: it lives, and what it no longer holds is finished.

        A report older than the one known says nothing. Call ``lose_verifier`` first on a
        restart.
        """
        verifier = self.verifiers.get(name)
        if verifier is None or stat.seq > verifier.stat.seq:
            self.term.note_report(stat.epoch, is_first=verifier is None)
        if verifier is None:
            verifier = self._find(name, stat, now_s)
        elif stat.seq <= verifier.stat.seq:
            return
        else:
            verifier.gaps.add(now_s - verifier.seen_s, now_s)
        if stat.draining != verifier.stat.draining:
            self.seek_places()
        verifier.stat, verifier.seen_s = stat, now_s
        verifier.deaf_until_s = -math.inf
        self.changed.add(name)
        for batch in verifier.pipeline.note_stat(stat, stat.epoch == self.epoch, now_s):
            self._release(batch, now_s)
        if stat.ahead or verifier.ahead:
            self._note_ahead(verifier, stat, now_s)
        self._note_sessions(name, stat, now_s)

    def _find(self, name: VerifierId, stat: Stat, now_s: float) -> Verifier:
        self._gone.discard(name)
        self.seek_places()
        if not self.verifiers:
            self.settled_s = now_s + MIN_SILENCE_S
        verifier = Verifier(name, stat, now_s, GapWindow(now_s), ModelKey.of(stat.identity))
        self.verifiers[name] = verifier
        self.models.add(stat.identity.model)
        return verifier

    def _note_sessions(self, name: VerifierId, stat: Stat, now_s: float) -> None:
        for report in stat.sessions or ():
            session = self.sessions.get(SessionKey(EdgeId(report.e), SessionId(report.s)))
            if session is None:
                continue
            session.is_used = True
            if report.state == "filling" and session.verifier == name:
                # Its round was taken out of its batch, and is out for as long as that takes.
                session.fill_round = max(report.round + 1, session.rhythm.round)
                session.is_out = True
                session.rhythm.note_held()
            if report.state in ("filling", "running"):
                session.heard_s = now_s  # a long prefill or a grant: the edge has nothing to say

    def _release(self, batch: SentBatch, now_s: float) -> None:
        """Its rounds were answered, and their edges draft again; or their contexts are computed
        first, which reports tell."""
        for key, pending in batch.items:
            session = self.sessions.get(key)
            if session is None or pending.is_hosted:
                continue
            session.is_out = False
            if session.pending is None:
                session.rhythm.note_released(now_s)
            elif session.pending.draft.round > pending.draft.round:
                session.rhythm.note_overtaken()

    def _note_ahead(self, verifier: Verifier, stat: Stat, now_s: float) -> None:
        """Sessions whose rounds run there though no batch brought them are not to be waited for,
        until these end."""
        keys = tuple(SessionKey(EdgeId(one.e), SessionId(one.s)) for one in stat.ahead)
        before, verifier.ahead = verifier.ahead, keys
        for key in set(before).difference(keys):
            if (session := self.sessions.get(key)) is not None and session.is_ahead:
                session.is_ahead = session.is_out = False
                if session.pending is None:
                    session.rhythm.note_released(now_s)
        for key in keys:
            session = self.sessions.get(key)
            if session is not None and session.verifier == verifier.name:
                session.is_ahead = session.is_out = True
                session.heard_s = now_s
                session.rhythm.note_held()

    def lose_verifier(self, name: VerifierId, *, is_gone: bool = False) -> int:
        """Forget a verifier that is known: its rounds wait again, its sessions are to be placed
        anew. ``is_gone``: it will not turn up with what it held. Returns how many rounds were put
        back."""
        verifier = self.verifiers.pop(name)
        if is_gone:
            self._gone.add(name)
        self.empty_verifier(verifier)
        return sum(self._put_back(batch) for batch in verifier.sent.values())

    def empty_verifier(self, verifier: Verifier) -> int:
        """Let a draining verifier finish what it has, and place its sessions elsewhere when they
        next speak. Returns how many left."""
        count = len(verifier.sessions)
        for session in verifier.sessions.values():
            session.verifier = None
            if session.pending is not None:
                self.homeless[session.key] = session
        verifier.sessions.clear()
        verifier.waiting.clear()
        self.seek_places()
        return count

    def forgive_silence(self, lag_s: float, now_s: float) -> None:
        """Nobody was listened to for ``lag_s``, which are no silence. The time before them stays
        one: a process that stalls again and again would else never miss anybody."""
        for verifier in self.verifiers.values():
            verifier.seen_s = min(now_s, verifier.seen_s + lag_s)

    def note_sent(
        self,
        verifier: Verifier,
        items: tuple[tuple[SessionKey, PendingDraft], ...],
        max_nodes: int,
        now_s: float,
    ) -> int:
        """The rounds leave for the verifier as one batch, each with no more than its first
        ``max_nodes`` nodes: its sequence number."""
        seq = self._next_seq.get(verifier.name, 1)
        self._next_seq[verifier.name] = seq + 1
        num_rows = sum([one.rows_of(max_nodes) for _, one in items])
        is_hosted = all(one.is_hosted for _, one in items)
        verifier.deaf_until_s = -math.inf
        verifier.pipeline.note_sent(seq, SentBatch(items, now_s, num_rows, is_hosted), now_s)
        for key, pending in items:
            session = self.sessions[key]
            session.is_out, session.is_hosted = True, pending.is_hosted
            session.is_ahead = False
            self.drop_pending(session)
        return seq

    def recover_lost(self, verifier: Verifier, sent_before_s: float) -> int:
        """Put back batches that never arrived: sent that long ago, and the verifier, which reported
        since, has not seen them. Returns how many rounds wait again."""
        if not verifier.sent:
            return 0
        last = verifier.stat.last if verifier.stat.epoch == self.epoch else 0
        lost = [
            seq
            for seq, batch in verifier.sent.items()
            if seq > last and batch.sent_s < sent_before_s and verifier.seen_s > batch.sent_s
        ]
        return sum(self._put_back(verifier.sent.pop(seq)) for seq in lost)

    def is_away(self, model: str) -> bool:
        """Whether the model was served before, and is by nobody now: its verifier may come back."""
        return model in self.models and not any(
            verifier.stat.identity.model == model and not verifier.stat.draining
            for verifier in self.verifiers.values()
        )

    def may_turn_up(self, name: str, now_s: float) -> bool:
        """Whether that verifier, which an edge names, is likely to be heard of presently."""
        is_away = bool(name) and name not in self.verifiers and name not in self._gone
        return is_away and now_s < self.settled_s

    # ------------------------------------------------------------ sessions

    def seek_places(self) -> None:
        """Something changed by which homeless sessions may find a place that found none before."""
        self._may_place = True

    def take_seekers(self) -> list[Session]:
        """Homeless sessions, if places are worth looking for; once, until something changes: where
        nobody serves their model, hundreds may wait through thousands of turns."""
        if not self._may_place:
            return []
        self._may_place = False
        return list(self.homeless.values())

    def session(self, key: SessionKey, now_s: float) -> Session:
        """The session, made if it was unknown; it was heard of now."""
        session = self.sessions.get(key)
        if session is None:
            self._num_sessions += 1
            session = Session(key, now_s, now_s, number=self._num_sessions)
            self.sessions[key] = session
            self.sessions_of.setdefault(key.edge, set()).add(key)
        session.heard_s = now_s
        return session

    def move(self, session: Session, to: VerifierId | None) -> None:
        """The session lives there from now on."""
        self._leave(session)
        session.verifier = to
        if to is not None:
            self.verifiers[to].sessions[session.key] = session
        if session.pending is not None:
            self._let_wait(session, session.pending)

    def set_pending(self, session: Session, pending: PendingDraft) -> bool:
        """Let a round wait, unless one as new already does. Whether it was taken."""
        if session.pending is not None and session.pending.order >= pending.order:
            return False
        session.pending = pending
        self.waiting[session.key] = session
        self._let_wait(session, pending)
        self.next_deadline_s = min(self.next_deadline_s, pending.deadline_s)
        return True

    def take_expired(self, now_s: float) -> list[tuple[SessionKey, PendingDraft]]:
        """The rounds whose time is over; they wait no more."""
        expired: list[tuple[SessionKey, PendingDraft]] = []
        self.next_deadline_s = math.inf
        for key, session in list(self.waiting.items()):
            pending = session.pending
            assert pending is not None  # that is what ``waiting`` means
            if pending.deadline_s > now_s:
                self.next_deadline_s = min(self.next_deadline_s, pending.deadline_s)
            else:
                expired.append((key, pending))
                self.drop_pending(session)
        return expired

    def drop_pending(self, session: Session) -> None:
        """Nothing of the session waits any more."""
        session.pending = None
        self.waiting.pop(session.key, None)
        self.homeless.pop(session.key, None)
        if session.verifier is not None:
            self.verifiers[session.verifier].waiting.pop(session.key, None)

    def forget(self, key: SessionKey) -> None:
        """The session ended, or was silent for too long. Idempotent."""
        session = self.sessions.pop(key, None)
        if session is None:
            return
        self.waiting.pop(key, None)
        self._leave(session)
        of_edge = self.sessions_of[key.edge]
        of_edge.discard(key)
        if not of_edge:
            del self.sessions_of[key.edge]

    def _leave(self, session: Session) -> None:
        self.homeless.pop(session.key, None)
        if session.verifier is not None:
            verifier = self.verifiers[session.verifier]
            verifier.sessions.pop(session.key, None)
            verifier.waiting.pop(session.key, None)
            self.changed.add(session.verifier)

    def _let_wait(self, session: Session, pending: PendingDraft) -> None:
        if session.verifier is None:
            self.homeless[session.key] = session
        else:
            verifier = self.verifiers[session.verifier]
            verifier.waiting[session.key] = pending
            if pending.is_hosted or verifier.hears(pending.arrived_s):
                self.changed.add(session.verifier)

    def _put_back(self, batch: SentBatch) -> int:
        count = 0
        for key, pending in batch.items:
            session = self.sessions.get(key)
            if session is not None and self.set_pending(session, pending):
                count += 1
        self.seek_places()
        return count
