"""How long an edge waits for an answer before it says the round again; knows no messages."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EdgeSessionConfig:
    """When an edge loses patience. Seconds, unless the name says otherwise.

    min_wait_s, max_wait_s  bounds of the wait for an answer, before and after doubling
    wait_factor     waits so many times the usual round trip (verification included)
    smoothing       weight of the newest round trip in the usual one
    round_trip_s    what is usual at the start, if an earlier session knows; None: unknown
    open_s          no place found for so long: the session ends with a retryable error
    open_timeout_s, open_retry_s   one open request; between two of them, if nobody said how long
    no_verifier_s   "no verifier" said for so long within a session: it ends
    give_up_s       no verdict and no other advance for so long: it ends
    retry_s         before a rejected round is said again, if the rejection does not say
    """

    min_wait_s: float = 0.3
    max_wait_s: float = 10.0
    wait_factor: float = 3.0
    smoothing: float = 0.25
    round_trip_s: float | None = None
    open_s: float = 1.5
    open_timeout_s: float = 0.75
    open_retry_s: float = 0.1
    no_verifier_s: float = 2.0
    give_up_s: float = 30.0
    retry_s: float = 0.1


class RoundTimer:
    """The wait for an answer: a multiple of the usual round trip, doubled for every try that was
    met with silence or came too late."""

    __slots__ = ("_config", "_doublings", "round_trip_s")

    def __init__(self, config: EdgeSessionConfig) -> None:
        self._config = config
        self._doublings = 0
        self.round_trip_s = config.round_trip_s

    @property
    def wait_s(self) -> float:
        """How long to wait for the answer to what is sent now."""
        usual_s = self._config.wait_factor * (self.round_trip_s or 0.0)
        wait_s = max(usual_s, self._config.min_wait_s) * 2.0**self._doublings
        return min(wait_s, self._config.max_wait_s)

    def observe(self, round_trip_s: float) -> None:
        """A round was answered after so long."""
        if self.round_trip_s is None:
            self.round_trip_s = round_trip_s
        else:
            self.round_trip_s += self._config.smoothing * (round_trip_s - self.round_trip_s)

    def double(self) -> None:
        """The last try was in vain."""
        self._doublings = min(self._doublings + 1, 30)

    def reset(self) -> None:
        """A new round begins, or the link is known to be back."""
        self._doublings = 0
