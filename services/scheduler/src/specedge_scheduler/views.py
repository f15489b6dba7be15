"""What the scheduler knows of one verifier, one session, one round: its cluster's values. Pure.

Changed by ``Cluster`` only.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from specedge.ids import SessionKey, VerifierId
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
    num_rows: int


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

    @property
    def num_rows_sent(self) -> int:
        """Rows that it runs or has staged, as far as is known."""
        return sum(batch.num_rows for batch in self.sent.values())

    def is_silent(self, now_s: float) -> bool:
        """Whether it is taken for dead."""
        return now_s - self.seen_s > self.gaps.patience_s
