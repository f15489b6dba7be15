"""When there is time to draft on while a round is out: how long a pass takes, when the verdict is
due. Means that follow what is measured; knows neither drafters nor sessions."""

import math
from typing import Final

# The share of the newest measurement: a change of pace shows within some ten measurements.
PASS_WEIGHT: Final = 0.1
SLOPE_WEIGHT: Final = 0.05
TRIP_WEIGHT: Final = 0.2
# However few rows: of a pass of usual width.
LEAST_SHARE: Final = 0.1
# A pass is as long for one row as for so many, where these together take so small a share of it.
WIDE_ROWS: Final = 8
NEGLIGIBLE: Final = 0.1
# By how much what is sent ahead had better be early: too late it is worth nothing, and too early it
# lacks a pass at most.
MARGIN_ERRORS: Final = 2.0  # of the usual error of what is expected
LEAST_MARGIN_S: Final = 0.001


class MovingMean:
    """An exponentially weighted mean. ``value`` is None until something was measured."""

    def __init__(self, weight: float, value: float | None = None) -> None:
        self._weight = weight
        self.value = value

    def add(self, measured: float) -> None:
        """One more measurement."""
        if self.value is None:
            self.value = measured
        else:
            self.value += self._weight * (measured - self.value)


class PassTime:
    """Seconds of a drafter's pass by its rows, of all sessions together: on a straight line through
    what was measured of late. Written by the compute thread."""

    def __init__(self) -> None:
        self._seconds, self._rows = MovingMean(PASS_WEIGHT), MovingMean(PASS_WEIGHT)
        self._spread, self._tilt = MovingMean(SLOPE_WEIGHT), MovingMean(SLOPE_WEIGHT)

    def add(self, seconds: float, num_rows: int) -> None:
        """One more pass."""
        if self._rows.value is not None and self._seconds.value is not None:
            more_rows = num_rows - self._rows.value
            self._spread.add(more_rows**2)
            self._tilt.add(more_rows * (seconds - self._seconds.value))
        self._seconds.add(seconds)
        self._rows.add(num_rows)

    @property
    def seconds(self) -> float:
        """The expected time of a pass of usual width; 0 as long as nothing is known."""
        return self._seconds.value or 0.0

    def of(self, num_rows: float) -> float:
        """The expected time of a pass over so many rows; 0 as long as nothing is known."""
        more_s = (num_rows - (self._rows.value or 0.0)) * self._row_s
        return max(self.seconds + more_s, LEAST_SHARE * self.seconds)

    def rows_within(self, seconds: float) -> float:
        """The widest pass that is over in so much time: less than 1 if none is, infinite if it does
        not depend on that, or nothing is known."""
        if self.of(1) > seconds:
            return 0.0
        if self._row_s * WIDE_ROWS <= NEGLIGIBLE * self.seconds:
            return math.inf
        return max(1.0, (seconds - self.seconds) / self._row_s + (self._rows.value or 0.0))

    @property
    def _row_s(self) -> float:
        """Of a further row."""
        if not self._spread.value:
            return 0.0
        return max(0.0, (self._tilt.value or 0.0) / self._spread.value)


class TripTimes:
    """Seconds from a draft's departure to its verdict, of all sessions of an edge together: where a
    new session's own mean starts. On the loop."""

    def __init__(self) -> None:
        self._shared = MovingMean(TRIP_WEIGHT)

    def session(self) -> "SessionTrips":
        """For one session."""
        return SessionTrips(self._shared)


class SessionTrips:
    """One session's trips. Its first one does not count: the verifier reads the prompt in it."""

    def __init__(self, shared: MovingMean) -> None:
        self._shared = shared
        self._own = MovingMean(TRIP_WEIGHT, shared.value)
        self._network = MovingMean(TRIP_WEIGHT)
        self._gap = MovingMean(TRIP_WEIGHT)
        self._error = MovingMean(TRIP_WEIGHT)
        self._has_prompt_behind = False

    def observe(self, round_trip_s: float, cloud_s: float = 0.0) -> None:
        """A verdict came so long after its draft, ``cloud_s`` of it in the hands of scheduler and
        verifier."""
        if self._has_prompt_behind:
            self._note_error(self._own, round_trip_s)
            self._own.add(round_trip_s)
            self._shared.add(round_trip_s)
            self._network.add(max(0.0, round_trip_s - cloud_s))
        self._has_prompt_behind = True

    def observe_gap(self, gap_s: float) -> None:
        """A verdict on a draft that had been sent ahead came so long after the verdict before."""
        self._note_error(self._gap, gap_s)
        self._gap.add(gap_s)

    def _note_error(self, mean: MovingMean, measured: float) -> None:
        if mean.value is not None:
            self._error.add(abs(measured - mean.value))

    def due_s(self, sent_s: float) -> float | None:
        """When the verdict on a draft that left at ``sent_s`` is expected; None: no idea."""
        if self._own.value is None or not self._has_prompt_behind:
            return None
        return sent_s + self._own.value

    def due_after_s(self, verdict_s: float) -> float | None:
        """The same, of a draft that had been sent ahead of the verdict that came at
        ``verdict_s``: the verifier went on at once."""
        if self._gap.value is not None:
            return verdict_s + self._gap.value
        if self._own.value is None or self._network.value is None:
            return None
        return verdict_s + max(0.0, self._own.value - self._network.value)

    def leave_by_s(self, due_s: float | None) -> float | None:
        """When to send what may be of use to the verifier at the end of the step whose verdict is
        due at ``due_s``: that verdict's way here, and the way there, are in between."""
        if due_s is None or self._network.value is None:
            return None
        error_s = self._error.value or 0.0
        return due_s - self._network.value - max(LEAST_MARGIN_S, MARGIN_ERRORS * error_s)
