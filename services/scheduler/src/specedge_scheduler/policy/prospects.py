"""Whether a batch goes now or waits for more, and when a session's next draft is wanted. Pure.

Both look one step beyond the next: what goes now delays who is late for it by a step, and what
waits delays everybody by the wait. Judged by tokens per second, never by how busy a verifier is.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Final, NamedTuple

from specedge.ids import EdgeId
from specedge_scheduler.policy.batching import BatchRoom
from specedge_scheduler.views import Session, Verifier

LEAST_GAIN: Final = 1.01  # holding must promise so much more: predictions err
SPLIT_GAIN: Final = 1.03
HOLD_SHARE: Final = 1.0  # of a step, that rounds are held at most while nothing runs
SATURATED: Final = 0.8  # of the time that all sessions are away: the rest is prediction's error
LOOK_AHEAD: Final = 16  # arrivals
SAME_MOMENT_S: Final = 0.0002


# What one session's round brings to a step, as usual or as it stands: when, in the clock's seconds,
# tokens, rows, context. A bare tuple: dozens are made for every batch.
Share = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a verifier's next steps could be.

    waiting   rounds that are here
    coming    rounds of its other sessions, by the time they are expected
    """

    waiting: tuple[Share, ...]
    coming: tuple[Share, ...]


def outlook(verifier: Verifier, now_s: float, places: int) -> Outlook:
    """From what is known of its sessions. Who is late is not counted on; nor are, of an edge's
    rounds that are here, more than its share of ``places``: others are worth waiting for."""
    waiting: list[Share] = []
    left_of = _places_left(verifier, places)
    coming: list[Share] = []
    ends_s = verifier.pipeline.ends_s
    here = verifier.waiting
    for key, session in verifier.sessions.items():
        rhythm, pending = session.rhythm, here.get(key)
        if pending is not None:
            if left_of is not None:
                left_of[key.edge] -= 1
                if left_of[key.edge] < 0:
                    continue
            waiting.append((pending.arrived_s, rhythm.tokens, pending.num_rows, pending.context))
            continue
        released_s = rhythm.released_s
        if released_s is None and session.is_out and not session.is_filling:
            released_s = ends_s
        if released_s is None or session.is_hosted or rhythm.is_late(now_s):
            continue
        at_s = rhythm.expected_s(released_s)
        if at_s is not None:
            at_s = at_s if at_s > now_s else now_s
            coming.append((at_s, rhythm.tokens, rhythm.rows, rhythm.context))
    coming.sort(key=itemgetter(0))
    return Outlook(tuple(waiting), tuple(coming))


def _places_left(verifier: Verifier, places: int) -> dict[EdgeId, int] | None:
    """Of each edge whose rounds wait, its share of a step; None: no edge has more than one."""
    of_edge = Counter(key.edge for key in verifier.waiting)
    if len(of_edge) == len(verifier.waiting):
        return None
    shares = places_of(verifier.sessions.values(), places)
    return {edge: 1 if num == 1 else int(shares[edge][0]) for edge, num in of_edge.items()}


class Hold(NamedTuple):
    """Rounds wait for so many more, which should be here by then."""

    until_s: float
    num_awaited: int


class Forecast:
    """Weighs what could be done with one outlook, on one verifier, from ``start_s``: when a step
    could begin at the earliest."""

    def __init__(self, verifier: Verifier, seen: Outlook, room: BatchRoom, start_s: float) -> None:
        self._verifier = verifier
        self._room = room
        self._start_s = start_s
        self._num_here = len(seen.waiting)
        # Everybody in the order of service; sums over the first so many of them.
        queue = (*seen.waiting, *seen.coming)
        columns: Sequence[Sequence[float]] = tuple(zip(*queue, strict=True)) or ((),) * 4
        at_s, tokens, rows, context = columns
        self._at_s = [one_s if one_s > start_s else start_s for one_s in at_s]
        self._tokens, self._rows, self._context = _sums(tokens), _sums(rows), _sums(context)

    @property
    def places(self) -> int:
        """How many rounds of the usual size a step takes."""
        num = self._num_here or len(self._at_s)
        usual_rows = max(1.0, self._rows[num] / max(1, num))
        return self._room.places(usual_rows)

    def hold(self, is_saturated: bool) -> Hold | None:
        """For whom the rounds that are here wait; None: they had better go.

        Where the verifier's time is what lacks, what counts is tokens per second of it; where it
        is not, what rounds wait in all.
        """
        here, places = self._num_here, self.places
        longest_s = HOLD_SHARE * self._step_s(0, here)
        worth = self._rate if is_saturated else self._saved_s
        best, best_hold = worth(here) * LEAST_GAIN, None
        for num_first in range(here + 1, min(places, len(self._at_s), here + LOOK_AHEAD) + 1):
            at_s = self._at_s[num_first - 1]
            if at_s - self._start_s > longest_s:
                break
            if (found := worth(num_first)) > best:
                best, best_hold = found, Hold(at_s, num_first - here)
        return best_hold

    def _saved_s(self, num_first: int) -> float:
        """Seconds of waiting that rounds are saved in all, if the next step waits for the first
        ``num_first`` of the queue, and does not go at once: who is waited for would else wait for
        the end of that step; who is here, or comes after, waits for longer."""
        if num_first == self._num_here:
            return 0.0
        wait_s = self._at_s[num_first - 1] - self._start_s
        step_s = self._step_s(0, self._num_here)
        num_there = bisect_right(self._at_s, self._start_s + step_s, num_first)
        num_awaited = num_first - self._num_here
        num_delayed = self._num_here + num_there - num_first
        return num_awaited * (step_s - wait_s) - num_delayed * wait_s

    def split(self) -> int | None:
        """How many of a crowd that is all here go first, so that the others' step hides what these
        take to come back; None: all of them. Only where one step has room for all."""
        num = self._num_here
        if num < 2 or num > self.places or len(self._at_s) - num > num // 4:
            return None
        away_s = self._verifier.usual.turnaround_s
        half = (num + 1) // 2
        whole_s, half_s = self._step_s(0, num), self._step_s(0, half)
        together = 1.0 / max(whole_s + away_s, 1e-9)
        apart = 1.0 / max(2 * half_s, half_s + away_s, 1e-9)
        return half if apart > SPLIT_GAIN * together else None

    def _rate(self, num_first: int) -> float:
        """Tokens per second of the next step and the one after it, if the next one waits for the
        first ``num_first`` of the queue, and the one after it for as many as is best then."""
        start_s = self._at_s[num_first - 1] if num_first > self._num_here else self._start_s
        end_s = start_s + self._step_s(0, num_first)
        num_there = max(num_first, bisect_right(self._at_s, end_s, num_first))
        most = min(num_first + self.places, len(self._at_s))
        best = self._tokens[num_first] / max(end_s - self._start_s, 1e-9)
        if most > num_first:
            best = 0.0  # the next step goes on with somebody, sooner or later
        for end in range(min(num_there, most), min(most, num_there + LOOK_AHEAD) + 1):
            if end == num_first:
                continue
            second_s = max(end_s, self._at_s[end - 1]) + self._step_s(num_first, end)
            best = max(best, self._tokens[end] / max(second_s - self._start_s, 1e-9))
        return best

    def _step_s(self, start: int, end: int) -> float:
        """Of a step with those of the queue."""
        if start == end:
            return 0.0
        rows = self._rows[end] - self._rows[start]
        context = self._context[end] - self._context[start]
        return self._verifier.estimator.predict_ms(round(rows), round(context)) / 1000


def _sums(values: Iterable[float]) -> list[float]:
    return list(accumulate(values, initial=0.0))


def places_of(sessions: Iterable[Session], places: int) -> dict[EdgeId, tuple[float, int]]:
    """Of each edge: how many places a step has for it on average, and how many sessions it has, if
    all edges get the same, and what one does not need goes to the others."""
    num_of: dict[EdgeId, int] = {}
    for session in sessions:
        num_of[session.key.edge] = num_of.get(session.key.edge, 0) + 1
    left, share_of = float(places), {}
    by_size = sorted(num_of.items(), key=lambda entry: entry[1])
    for index, (edge, num) in enumerate(by_size):
        share = min(float(num), left / (len(by_size) - index))
        left -= share
        share_of[edge] = share, num
    return share_of


def is_saturated(verifier: Verifier, num_sessions: int, places: int, step_s: float) -> bool:
    """Whether steps of ``places`` rounds and ``step_s``, one after another, take about as long for
    all sessions as these take to come back: then the verifier's time is what lacks."""
    away_s = verifier.usual.turnaround_s
    return num_sessions / places * step_s >= SATURATED * (away_s + step_s)
