"""What the scheduler knows of one verifier, one session, one round: its cluster's values. Pure.

Changed by ``Cluster`` only.
"""

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from specedge.ids import SessionKey, VerifierId
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge.protocol.reports import Stat
from specedge_scheduler.estimator import StepEstimator
from specedge_scheduler.pipeline import PendingDraft, Pipeline, SentBatch
from specedge_scheduler.rhythm import Rhythm

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


@dataclass(slots=True)
class Session:
    """A session as the scheduler knows it.

    verifier  where its KV is, or will be; None: to be placed with its next round
    wants     the model it was opened for; None while only drafts were seen
    pending   the one round that waits here
    is_out    its last round is at a verifier, as far as is known: in a batch, or for its context
    is_hosted its last round was a grant: it goes on by itself
    ahead_round  the newest round beyond which a draft was sent ahead
    is_ahead  a round of it is at the verifier that no batch brought: its draft was sent ahead
    number    grows with every session made: who was first
    opened_s  when it was made
    is_used   a context or a round of it came; else it only holds a place
    fill_round  the last round that needs, or needed, a context computed before it; -1: none
    needs     what it was promised when it was opened; None if it was opened by another scheduler
    at        where it was last, by its own word
    """

    key: SessionKey
    heard_s: float
    opened_s: float
    verifier: VerifierId | None = None
    wants: ModelKey | None = None
    pending: PendingDraft | None = None
    is_out: bool = False
    is_hosted: bool = False
    ahead_round: int = -1
    is_ahead: bool = False
    number: int = 0
    is_used: bool = False
    fill_round: int = -1
    needs: Limits | None = None
    at: str = ""
    rhythm: Rhythm = field(default_factory=Rhythm)

    @property
    def is_filling(self) -> bool:
        """Whether its context is being computed, or will be, as far as is known: nothing is to come
        of it before."""
        return self.is_used and self.fill_round >= self.rhythm.round


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


USUAL_WEIGHT: Final = 0.05  # of the newest draft
FULL_WEIGHT: Final = round(1 / USUAL_WEIGHT)  # drafts, before which all count alike


@dataclass(slots=True)
class Usual:
    """What rounds at a verifier are like of late, over all of its sessions."""

    num_drafts: int = 0
    tokens: float = 2.0
    rows: float = 8.0
    context: float = 0.0
    turnaround_s: float = 0.05

    def note(self, rhythm: Rhythm) -> None:
        """A draft came from a session with this rhythm."""
        self.num_drafts += 1
        weight = USUAL_WEIGHT if self.num_drafts >= FULL_WEIGHT else 1.0 / self.num_drafts
        self.tokens += weight * (rhythm.tokens - self.tokens)
        self.rows += weight * (rhythm.rows - self.rows)
        self.context += weight * (rhythm.context - self.context)
        if rhythm.turnaround_s is not None:
            self.turnaround_s += weight * (rhythm.turnaround_s - self.turnaround_s)


@dataclass(slots=True)
class Verifier:
    """A live verifier: its last report, the batches it was sent, the sessions that live there and
    those of their rounds that wait here, oldest first. ``deaf_until_s``: edges' rounds that come
    before then are news to nobody while fewer than ``deaf_below`` wait, unless the verifier itself
    is heard of. ``ahead``: whose rounds it has that no batch brought. ``outranked_s``: since when
    it follows a later term than ours and loses our batches, and takes no others;
    ``outranked_last``: the newest that it took."""

    name: VerifierId
    stat: Stat
    seen_s: float
    gaps: GapWindow
    model: ModelKey
    pipeline: Pipeline = field(default_factory=Pipeline)
    usual: Usual = field(default_factory=Usual)
    sessions: dict[SessionKey, Session] = field(default_factory=dict)
    waiting: dict[SessionKey, PendingDraft] = field(default_factory=dict)
    deaf_until_s: float = -math.inf
    deaf_below: int = 0
    ahead: tuple[SessionKey, ...] = ()
    outranked_s: float | None = None
    outranked_last: int = -1

    @property
    def sent(self) -> dict[int, SentBatch]:
        """Batches that it has not finished, as far as is known."""
        return self.pipeline.sent

    @property
    def estimator(self) -> StepEstimator:
        """Of its steps."""
        return self.pipeline.estimator

    @property
    def silent_s(self) -> float:
        """From when on it is taken for dead, if nothing more is heard."""
        return self.seen_s + self.gaps.patience_s

    def hears(self, arrived_s: float) -> bool:
        """Whether a round that came then, and waits now, is news."""
        return arrived_s >= self.deaf_until_s or len(self.waiting) >= self.deaf_below

    def is_silent(self, now_s: float) -> bool:
        """Whether it is taken for dead."""
        return now_s > self.silent_s
