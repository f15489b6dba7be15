"""How one session comes and goes: when its next draft arrives, and what a draft of it yields. Pure.

Learned from its own history alone; the one who hears of drafts and of ended steps tells it.
"""

from typing import Final

from specedge_scheduler.pipeline import PendingDraft

WEIGHT: Final = 0.2  # of the newest
OUTLIER: Final = 4.0  # times the usual: a user's pause, a resync
SURE_SPREADS: Final = 2.0
LATE_SPREADS: Final = 3.0
LATE_S: Final = 0.003


class Rhythm:
    """One session's. Seconds of the scheduler's clock; tokens and rows per round.

    released_s    when its last round's step was reported ended; None: it waits, or is in a step
    turnaround_s  from then to its next draft's arrival, as usual; None: not known yet
    spread_s      mean deviation of that
    """

    __slots__ = (
        "_base",
        "_most",
        "_round",
        "released_s",
        "rows",
        "spread_s",
        "tokens",
        "turnaround_s",
    )

    def __init__(self) -> None:
        self.released_s: float | None = None
        self.turnaround_s: float | None = None
        self.spread_s = 0.0
        self.tokens = 2.0
        self.rows = 0.0
        self._base = 0
        self._most = 1  # tokens that its last draft may yield
        self._round = -1

    @property
    def has_begun(self) -> bool:
        """Whether a draft ever came."""
        return self._round >= 0

    @property
    def round(self) -> int:
        """Of its last draft; -1 before the first."""
        return self._round

    @property
    def context(self) -> int:
        """Tokens committed, as its last draft said."""
        return self._base

    def note_draft(self, pending: PendingDraft) -> bool:
        """A draft arrived, and was found in order: whether it is news, and not said before. What it
        says that the one before it yielded is believed as far as that could have."""
        number, base = pending.draft.round, pending.committed
        if number <= self._round:
            return False
        if self._round >= 0 and number == self._round + 1:
            gained = min(max(base - self._base, 1), self._most)
            self.tokens += WEIGHT * (gained - self.tokens)
        self._round, self._base, self._most = number, base, pending.most_tokens
        self.rows += (1.0 if self.rows == 0.0 else WEIGHT) * (pending.num_rows - self.rows)
        if self.released_s is not None:
            self._learn(pending.arrived_s - self.released_s)
            self.released_s = None
        return True

    def note_released(self, now_s: float) -> None:
        """The step with its round ended."""
        self.released_s = now_s

    def note_held(self) -> None:
        """It is in another step already, or waits for one: nothing is to come."""
        self.released_s = None

    def note_overtaken(self) -> None:
        """The step with its round ended, and its next draft was there before that was known."""
        self._learn(0.0)

    def expected_s(self, released_s: float) -> float | None:
        """By when its draft has come most likely, if it is, or was, released then; None: nobody can
        say."""
        if self.turnaround_s is None:
            return None
        return released_s + self.turnaround_s + SURE_SPREADS * self.spread_s

    def is_late(self, now_s: float) -> bool:
        """Whether it should have come long ago: it is not waited for."""
        released_s, turnaround_s = self.released_s, self.turnaround_s
        if released_s is None or turnaround_s is None:
            return False
        return now_s > released_s + turnaround_s + LATE_SPREADS * self.spread_s + LATE_S

    def _learn(self, turnaround_s: float) -> None:
        if self.turnaround_s is None:
            self.turnaround_s = turnaround_s
            return
        usual_s = self.turnaround_s
        turnaround_s = min(turnaround_s, OUTLIER * usual_s + LATE_S)
        self.turnaround_s += WEIGHT * (turnaround_s - usual_s)
        self.spread_s += WEIGHT * (abs(turnaround_s - usual_s) - self.spread_s)
