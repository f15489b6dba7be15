"""What is known of the pool: verifiers by their reports, sessions and where they live. Pure.

Soft state, all of it: a scheduler that starts anew learns the verifiers from their next reports and
the sessions from their next drafts. Decides nothing; ``policy`` does. One owner, the driver's task.
"""

import math

from specedge.ids import EdgeId, SessionId, SessionKey, VerifierId
from specedge.protocol.messages import Stat
from specedge_scheduler.views import GapWindow, PendingDraft, SentBatch, Session, Verifier


class Cluster:
    """Everything known. Methods change it by one fact each and keep the indexes in step."""

    def __init__(self, epoch: tuple[int, int]) -> None:
        self.epoch = epoch
        self.verifiers: dict[VerifierId, Verifier] = {}
        self.sessions: dict[SessionKey, Session] = {}
        self.waiting: dict[SessionKey, Session] = {}  # those with a pending round, oldest first
        self.sessions_of: dict[EdgeId, set[SessionKey]] = {}
        self.next_deadline_s = math.inf  # no waiting round expires before
        self._next_seq: dict[VerifierId, int] = {}

    # ------------------------------------------------------------ verifiers

    def is_restart(self, name: VerifierId, stat: Stat) -> bool:
        """Whether a report comes from another incarnation than the one known."""
        known = self.verifiers.get(name)
        return known is not None and known.stat.inc != stat.inc

    def note_stat(self, name: VerifierId, stat: Stat, now_s: float) -> None:
        """Take a report in: it lives, and what it no longer holds is finished.

        A report older than the one known only proves life. Call ``lose_verifier`` first on a
        restart.
        """
        verifier = self.verifiers.get(name)
        if verifier is None:
            verifier = Verifier(name, stat, now_s, GapWindow(now_s))
            self.verifiers[name] = verifier
        elif stat.seq <= verifier.stat.seq:
            return
        else:
            verifier.gaps.add(now_s - verifier.seen_s, now_s)
        verifier.stat, verifier.seen_s = stat, now_s
        for step in stat.steps:
            verifier.estimator.observe(step)
        if stat.epoch == self.epoch:
            held = set(stat.batches)
            for seq in [seq for seq in verifier.sent if seq <= stat.last and seq not in held]:
                del verifier.sent[seq]
        for report in stat.sessions or ():
            session = self.sessions.get(SessionKey(EdgeId(report.e), SessionId(report.s)))
            if session is not None and report.state in ("filling", "running"):
                session.heard_s = now_s  # a long prefill or a grant: the edge has nothing to say

    def lose_verifier(self, name: VerifierId) -> int:
        """Forget a verifier: its rounds wait again, its sessions are to be placed anew. Returns how
        many rounds were put back."""
        verifier = self.verifiers.pop(name, None)
        if verifier is None:
            return 0
        for key in verifier.sessions:
            self.sessions[key].verifier = None
        return sum(self._put_back(batch) for batch in verifier.sent.values())

    def empty_verifier(self, verifier: Verifier) -> int:
        """Let a draining verifier finish what it has, and place its sessions elsewhere when they
        next speak. Returns how many left."""
        count = len(verifier.sessions)
        for key in verifier.sessions:
            self.sessions[key].verifier = None
        verifier.sessions.clear()
        return count

    def forgive_silence(self, now_s: float) -> None:
        """Begin to wait for everybody's next report anew."""
        for verifier in self.verifiers.values():
            verifier.seen_s = now_s

    def note_sent(
        self, verifier: Verifier, items: tuple[tuple[SessionKey, PendingDraft], ...], now_s: float
    ) -> int:
        """The rounds leave for the verifier as one batch: its sequence number."""
        seq = self._next_seq.get(verifier.name, 1)
        self._next_seq[verifier.name] = seq + 1
        verifier.sent[seq] = SentBatch(items, now_s, sum(one.num_rows for _, one in items))
        for key, _ in items:
            self.drop_pending(self.sessions[key])
        return seq

    def recover_lost(self, verifier: Verifier, sent_before_s: float) -> int:
        """Put back batches that never arrived: sent that long ago, and the verifier, which reported
        since, has not seen them. Returns how many rounds wait again."""
        last = verifier.stat.last if verifier.stat.epoch == self.epoch else 0
        lost = [
            seq
            for seq, batch in verifier.sent.items()
            if seq > last and batch.sent_s < sent_before_s and verifier.seen_s > batch.sent_s
        ]
        return sum(self._put_back(verifier.sent.pop(seq)) for seq in lost)

    # ------------------------------------------------------------ sessions

    def session(self, key: SessionKey, now_s: float) -> Session:
        """The session, made if it was unknown; it was heard of now."""
        session = self.sessions.get(key)
        if session is None:
            session = Session(key, now_s)
            self.sessions[key] = session
            self.sessions_of.setdefault(key.edge, set()).add(key)
        session.heard_s = now_s
        return session

    def move(self, session: Session, to: VerifierId | None) -> None:
        """The session lives there from now on."""
        if session.verifier is not None and session.verifier in self.verifiers:
            self.verifiers[session.verifier].sessions.discard(session.key)
        session.verifier = to
        if to is not None:
            self.verifiers[to].sessions.add(session.key)

    def set_pending(self, session: Session, pending: PendingDraft) -> bool:
        """Let a round wait, unless one as new already does. Whether it was taken."""
        if session.pending is not None and session.pending.order >= pending.order:
            return False
        session.pending = pending
        self.waiting[session.key] = session
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

    def forget(self, key: SessionKey) -> None:
        """The session ended, or was silent for too long. Idempotent."""
        session = self.sessions.pop(key, None)
        if session is None:
            return
        self.waiting.pop(key, None)
        if session.verifier is not None and session.verifier in self.verifiers:
            self.verifiers[session.verifier].sessions.discard(key)
        of_edge = self.sessions_of[key.edge]
        of_edge.discard(key)
        if not of_edge:
            del self.sessions_of[key.edge]

    def _put_back(self, batch: SentBatch) -> int:
        count = 0
        for key, pending in batch.items:
            session = self.sessions.get(key)
            if session is not None and self.set_pending(session, pending):
                count += 1
        return count
