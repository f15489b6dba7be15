"""What is known of the pool: verifiers by their reports, sessions and where they live. Pure.

Soft state, all of it: a scheduler that starts anew learns the verifiers from their next reports and
the sessions from their next drafts. Decides nothing; ``policy`` does. One owner, the driver's task.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from specedge.ids import EdgeId, SessionId, SessionKey, VerifierId
from specedge.protocol.messages import Draft, Identity, Stat
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge_scheduler.estimator import StepEstimator

MIN_SILENCE_S: Final = 0.35  # three and a half heartbeats
MAX_SILENCE_S: Final = 1.5
GAPS_TOLERATED: Final = 4.0
GAP_WINDOW_S: Final = 5.0


class ModelKey(NamedTuple):
    """What must be equal for a session to move from one verifier to another. ``weights`` may be
    ``ANY_WEIGHTS``: the edge did not say."""

    name: str
    weights: str
    tokenizer: str

    @classmethod
    def of(cls, identity: Identity) -> "ModelKey":
        """The model that a verifier serves."""
        return cls(identity.model, identity.weights, identity.tokenizer)

    def admits(self, other: "ModelKey") -> bool:
        """Whether a session that wants this may go where ``other`` is served."""
        same_weights = self.weights in (ANY_WEIGHTS, other.weights)
        return same_weights and (self.name, self.tokenizer) == (other.name, other.tokenizer)


@dataclass(frozen=True, slots=True, eq=False)
class PendingDraft:
    """A round that waits here, or is at a verifier. Times in the clock's seconds."""

    draft: Draft
    arrived_s: float
    deadline_s: float

    @property
    def num_rows(self) -> int:
        """Rows it adds to a step: the root, what is appended, what is drafted."""
        return 1 + len(self.draft.append) + len(self.draft.token)

    @property
    def order(self) -> tuple[int, int]:
        """Newest wins: the round, then the try."""
        return self.draft.round, self.draft.try_


@dataclass(slots=True)
class Session:
    """A session as the scheduler knows it.

    verifier  where its KV is, or will be; None: to be placed with its next round
    wants     the model it was opened for; None while only drafts were seen
    pending   the one round that waits here
    """

    key: SessionKey
    heard_s: float
    verifier: VerifierId | None = None
    wants: ModelKey | None = None
    pending: PendingDraft | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SentBatch:
    """A batch at a verifier, as far as is known."""

    items: tuple[tuple[SessionKey, PendingDraft], ...]
    sent_s: float


class GapWindow:
    """The largest recent gap between reports: of this window of five seconds and the one before."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._largest_s = 0.0
        self._before_s = 0.0

    def add(self, gap_s: float, now_s: float) -> None:
        """A report came ``gap_s`` after the one before."""
        if now_s - self._since_s > GAP_WINDOW_S:
            self._since_s, self._before_s, self._largest_s = now_s, self._largest_s, 0.0
        self._largest_s = max(self._largest_s, gap_s)

    @property
    def patience_s(self) -> float:
        """How long silence is no sign of death."""
        wanted_s = GAPS_TOLERATED * max(self._largest_s, self._before_s)
        return min(MAX_SILENCE_S, max(MIN_SILENCE_S, wanted_s))


@dataclass(slots=True)
class Verifier:
    """A live verifier: its last report, and the batches it was sent that it has not finished."""

    name: VerifierId
    stat: Stat
    seen_s: float
    gaps: GapWindow
    estimator: StepEstimator = field(default_factory=StepEstimator)
    sent: dict[int, SentBatch] = field(default_factory=dict)
    sessions: set[SessionKey] = field(default_factory=set)

    @property
    def model(self) -> ModelKey:
        """What it serves."""
        return ModelKey.of(self.stat.identity)

    def is_silent(self, now_s: float) -> bool:
        """Whether it is taken for dead."""
        return now_s - self.seen_s > self.gaps.patience_s


class Cluster:
    """Everything known. Methods change it by one fact each and keep the indexes in step."""

    def __init__(self, epoch: tuple[int, int]) -> None:
        self.epoch = epoch
        self.verifiers: dict[VerifierId, Verifier] = {}
        self.sessions: dict[SessionKey, Session] = {}
        self.waiting: dict[SessionKey, Session] = {}  # those with a pending round, oldest first
        self.sessions_of: dict[EdgeId, set[SessionKey]] = {}
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
        verifier.sent[seq] = SentBatch(items, now_s)
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
        return True

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
