"""How fast to learn, and when to stop. Pure: what was seen so far comes in.

The rate rises, stays, and falls over the last part (warm-up, stable, decay): where training ends
may be decided late, and the stable part may be gone on with from any checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tokens to train on, and the shape of the learning rate over them.

    warm_up, decay  shares of ``total_tokens`` at its start and end
    """

    total_tokens: int
    peak_rate: float = 1.5e-3
    warm_up: float = 0.02
    decay: float = 0.3

    def rate(self, seen_tokens: int) -> float:
        """The learning rate after ``seen_tokens``; never quite 0 before the end."""
        done = seen_tokens / self.total_tokens
        rising = min(1.0, (done + 1e-3) / self.warm_up) if self.warm_up else 1.0
        falling = min(1.0, max(0.0, 1.0 - done) / self.decay) if self.decay else 1.0
        return self.peak_rate * min(rising, max(falling, 1e-3))


def has_stalled(history: Sequence[float], patience: int) -> bool:
    """Whether none of the last ``patience`` measurements was better than the best before them."""
    if len(history) <= patience:
        return False
    return max(history[-patience:]) <= max(history[:-patience])
