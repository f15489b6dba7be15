"""When there is time to draft on while a round is out: how long a pass takes, when the verdict is
due. Means that follow what is measured; knows neither drafters nor sessions."""

from typing import Final

# The share of the newest measurement: a change of pace shows within some ten measurements.
PASS_WEIGHT: Final = 0.1
TRIP_WEIGHT: Final = 0.2


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


class PassTime(MovingMean):
    """Seconds of a drafter's pass, of all sessions together. Written by the compute thread."""

    def __init__(self) -> None:
        super().__init__(PASS_WEIGHT)

    @property
    def seconds(self) -> float:
        """The expected time of the next pass; 0 as long as nothing is known."""
        return self.value or 0.0


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
        self._has_prompt_behind = False

    def observe(self, round_trip_s: float) -> None:
        """A verdict came so long after its draft."""
        if self._has_prompt_behind:
            self._own.add(round_trip_s)
            self._shared.add(round_trip_s)
        self._has_prompt_behind = True

    def due_s(self, sent_s: float) -> float | None:
        """When the verdict on a draft that left at ``sent_s`` is expected; None: no idea."""
        if self._own.value is None or not self._has_prompt_behind:
            return None
        return sent_s + self._own.value
