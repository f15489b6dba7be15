"""Means that forget, and the allowance from which experiments are paid. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Average:
    """A mean of what was seen, over about the last ``memory`` values once there were so many.

    weight  how many values the mean stands for; 0: none, and the mean is only a guess
    """

    memory: float
    mean: float = 0.0
    weight: float = 0.0

    def add(self, value: float, share: float = 1.0) -> None:
        """One more value, or ``share`` of one; of many alike, as many as are remembered."""
        share = min(share, self.memory)
        self.weight = min(self.weight + share, self.memory)
        self.mean += (value - self.mean) * share / self.weight

    def fade(self, weight: float) -> None:
        """What was seen may be out of date: let it count as at most ``weight`` values."""
        self.weight = min(self.weight, weight)


@dataclass(slots=True)
class Yield:
    """What drafted rounds yield: expected tokens, and milliseconds beside the network's; and what
    a step took meanwhile that does nothing but go on."""

    tokens: Average
    own_ms: Average
    step_ms: Average

    @classmethod
    def over(cls, rounds: float) -> "Yield":
        """Of the last so many rounds."""
        return cls(Average(rounds), Average(rounds), Average(rounds))

    @property
    def weight(self) -> float:
        """Rounds that it stands for."""
        return self.tokens.weight

    def own_ms_beside(self, step_ms: float) -> float:
        """What a round would take beside the network's time, now that such a step takes
        ``step_ms``: devices get slower and faster, and a round not tried lately had another one."""
        if self.step_ms.mean <= 0.0 or step_ms <= 0.0:
            return self.own_ms.mean
        if self.own_ms.mean <= 0.0:  # most were begun ahead, and spared more than they took
            return self.own_ms.mean + step_ms - self.step_ms.mean
        return self.own_ms.mean * step_ms / self.step_ms.mean

    def add(self, tokens: float, own_ms: float, step_ms: float) -> None:
        """One more round."""
        self.tokens.add(tokens)
        self.own_ms.add(own_ms)
        self.step_ms.add(step_ms)

    def fade(self, weight: float) -> None:
        """See ``Average.fade``."""
        for each in (self.tokens, self.own_ms, self.step_ms):
            each.fade(weight)


@dataclass(slots=True)
class Allowance:
    """A share of all time may be lost to experiments, and no more.

    share      of the time that passes
    saved_ms   what may be lost now; starts as a credit, since a new device knows nothing
    most_ms    how much can be saved up
    owed_ms    how much can be owed
    put_by_ms  of what is saved, for a dear experiment that waits: small ones, which come often,
               would use up all that is earned, and it would wait for ever
    """

    share: float
    saved_ms: float
    most_ms: float
    owed_ms: float = 0.0
    put_by_ms: float = 0.0
    _is_awaited: bool = False

    def earn(self, elapsed_ms: float) -> None:
        """Time went by."""
        earned_ms = self.share * elapsed_ms
        self.saved_ms = min(self.most_ms, self.saved_ms + earned_ms)
        if self._is_awaited:
            self.put_by_ms = min(self.put_by_ms + earned_ms / 2, max(self.saved_ms, 0.0))

    def try_spend(self, loss_ms: float) -> bool:
        """Whether an experiment that is expected to lose so much is allowed; if so, it is paid. If
        not, half of what is earned from now on is put by for it."""
        if self._try_pay(loss_ms, self.saved_ms):
            self.await_nothing()
            return True
        self._is_awaited = True
        return False

    def await_nothing(self) -> None:
        """The experiment that waited is not wanted any more."""
        self._is_awaited, self.put_by_ms = False, 0.0

    def try_spend_little(self, loss_ms: float) -> bool:
        """The same for an experiment that is made often: it leaves what is put by."""
        return self._try_pay(loss_ms, self.saved_ms - self.put_by_ms)

    def _try_pay(self, loss_ms: float, most_ms: float) -> bool:
        loss_ms = max(0.0, loss_ms)
        if loss_ms > most_ms:
            return False
        self.saved_ms -= loss_ms
        return True

    def charge(self, more_ms: float) -> None:
        """An experiment lost so much more than was paid for it. What is owed is earned before the
        next one; it is no more than ``owed_ms``, since a stall is nobody's fault."""
        self.saved_ms = max(-self.owed_ms, self.saved_ms - more_ms)
