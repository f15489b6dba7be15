"""What predictions cannot settle is tried: habits of one verifier's batches, one at a time. Pure.

Whether holding pays, or telling edges when, depends on how sessions come back to what is done: a
loop that no forecast of the next two steps sees through. So now and then one habit is changed for
some steps, and kept if sessions went faster than before and after. What loses is tried ever more
rarely, until the load is another.
"""

from dataclasses import dataclass, fields, replace
from typing import Final

SPAN_BATCHES: Final = 48  # that one way of working is judged by
SETTLE_BATCHES: Final = 12  # of these, before it shows
GAIN: Final = 1.02  # that a change must bring
LOSS: Final = 0.95  # at which a trial is broken off, and not repeated soon
LEAST_BATCHES: Final = 12  # counted, before it is
FIRST_WAIT: Final = 1  # spans between two trials of a habit; twice as long after each that lost
LONGEST_WAIT: Final = 64
OTHER_LOAD: Final = 1.25  # times as many sessions, or as few: all is tried anew


@dataclass(frozen=True, slots=True)
class Habits:
    """How batches are formed.

    holds  rounds may be held for others that are nearly here
    tells  edges are told when their next draft is wanted
    """

    holds: bool = True
    tells: bool = True


HABITS: Final = tuple(field.name for field in fields(Habits))


class Trials:
    """One verifier's. ``note`` every batch that goes."""

    def __init__(self) -> None:
        self.habits = Habits()
        self._kept = Habits()  # those that the trial, if there is one, is measured against
        self._trial: str | None = None
        self._before = 0.0  # how fast sessions went with what is kept, and in the trial after it
        self._tried = 0.0
        self._load = 0  # sessions
        self._num_batches = 0  # of this span; what those yielded that count, and how long it took
        self._tokens = self._session_s = self._last_s = 0.0
        self._waits: dict[str, int] = {}
        self._due: dict[str, int] = {}  # spans until a habit is tried again
        self._start_over(0)

    def note(self, tokens: float, num_sessions: int, now_s: float) -> None:
        """A batch goes that is worth so many tokens, to a verifier with so many sessions."""
        load = max(1, self._load)
        if not load / OTHER_LOAD <= num_sessions <= load * OTHER_LOAD:
            self._start_over(num_sessions)
        if self._num_batches > SETTLE_BATCHES:
            self._tokens += tokens
            self._session_s += num_sessions * (now_s - self._last_s)
        self._num_batches += 1
        self._last_s = now_s
        rate = self._tokens / max(self._session_s, 1e-9)
        if self._num_batches >= SPAN_BATCHES or self._is_lost(rate):
            self._end_span(rate)

    def _is_lost(self, rate: float) -> bool:
        num_counted = self._num_batches - SETTLE_BATCHES - 1
        is_trial = self.habits != self._kept
        return is_trial and num_counted >= LEAST_BATCHES and rate < LOSS * self._before

    def _start_over(self, num_sessions: int) -> None:
        self._load = num_sessions
        self.habits = self._kept = Habits()
        self._trial = None
        self._waits = dict.fromkeys(HABITS, FIRST_WAIT)
        self._due = {name: FIRST_WAIT + order for order, name in enumerate(HABITS)}
        self._begin_span()

    def _begin_span(self) -> None:
        self._num_batches = 0
        self._tokens = self._session_s = self._last_s = 0.0

    def _end_span(self, rate: float) -> None:
        self._begin_span()
        if self.habits != self._kept:  # a trial was on; now for comparison the old way again
            self._tried, self.habits = rate, self._kept
            return
        if self._trial is not None:
            self._judge(self._trial, (self._before + rate) / 2)
        self._before = rate
        self._due = {name: due - 1 for name, due in self._due.items()}
        name = min(HABITS, key=lambda one: self._due[one])
        if self._trial is None and self._due[name] <= 0:
            self._trial = name
            self.habits = _other(self._kept, name)

    def _judge(self, name: str, usual: float) -> None:
        self._trial = None
        if self._tried > GAIN * usual:
            self.habits = self._kept = _other(self._kept, name)
            self._waits = dict.fromkeys(HABITS, FIRST_WAIT)
        else:
            longer = 4 if self._tried < LOSS * usual else 2
            self._waits[name] = min(LONGEST_WAIT, longer * self._waits[name])
        self._due[name] = self._waits[name]


def _other(habits: Habits, name: str) -> Habits:
    return replace(habits, **{name: not getattr(habits, name)})
