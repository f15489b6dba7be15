"""One direction of an emulated connection: when, how often and whether a thing arrives."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from specedge.clock import Cancellable, Timers


@dataclass(frozen=True, slots=True)
class WireProfile:
    """How a connection behaves, each way.

    latency_s    of every message
    jitter_s     added, evenly distributed between 0 and this
    loss, duplication, reordering   chances, 0 to 1, of each message by itself
    held_back_s  how long a reordered message is kept, so that later ones overtake it
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    held_back_s: float = 0.01

    @property
    def is_instant(self) -> bool:
        """Whether things arrive on the next turn."""
        return self.latency_s == 0.0 and self.jitter_s == 0.0


PERFECT = WireProfile()


class Wire:
    """Carries things by calling them when they arrive: in order, but for those reordered."""

    def __init__(self, profile: WireProfile, *, timers: Timers, random: Random) -> None:
        self.profile = profile
        self._timers = timers
        self._random = random
        self._last_arrival_s = 0.0
        self._flying: dict[int, Cancellable] = {}
        self._sent = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._flying

    def carry(self, arrive: Callable[[], None]) -> None:
        """Call ``arrive`` later: once, twice, or never."""
        if self._chance(self.profile.loss):
            return
        self._launch(arrive, is_held=self._chance(self.profile.reordering))
        if self._chance(self.profile.duplication):
            self._launch(arrive, is_held=False)

    def carry_surely(self, arrive: Callable[[], None]) -> None:
        """Call ``arrive`` once, after everything that was launched before and not held back."""
        self._launch(arrive, is_held=False)

    def drop_all(self) -> None:
        """Lose what is under way."""
        for timer in self._flying.values():
            timer.cancel()
        self._flying.clear()

    def _launch(self, arrive: Callable[[], None], *, is_held: bool) -> None:
        delay_s = self.profile.latency_s + self.profile.jitter_s * self._random.random()
        at_s = max(self._timers.now_s() + delay_s, self._last_arrival_s)
        if is_held:
            at_s += self.profile.held_back_s
        else:
            self._last_arrival_s = at_s
        self._sent += 1
        number = self._sent

        def land() -> None:
            del self._flying[number]
            arrive()

        self._flying[number] = self._timers.call_at(at_s, land)

    def _chance(self, probability: float) -> bool:
        return probability > 0.0 and self._random.random() < probability
