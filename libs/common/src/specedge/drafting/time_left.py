"""How many passes to run when it is known until when the draft is wanted. Pure.

A pass that is over in time costs nothing. One more makes the verifier wait for the rest of it, and
so every session that is verified there; it is run where its level is worth more than that.
"""

from collections.abc import Callable
from typing import Final

from specedge.pairs import tokens_per_round

MEMORY: Final = 64.0  # levels that what is known of their acceptance is made of
PRIOR_ACCEPTED: Final = 5.6
PRIOR_TRIED: Final = 8.0
# A level that adds less to a round is never waited for: the moment that is told errs by as much.
LEAST_GAIN: Final = 0.03


class LevelAcceptance:
    """How often a level of one session's drafts is accepted, given that the one above it was."""

    def __init__(self) -> None:
        self._accepted, self._tried = PRIOR_ACCEPTED, PRIOR_TRIED

    def note(self, num_accepted: int, depth: int) -> None:
        """The verdict on a draft of ``depth`` levels accepted so many of them."""
        self._accepted += num_accepted
        self._tried += min(depth, num_accepted + 1)
        if self._tried > MEMORY:
            self._accepted *= MEMORY / self._tried
            self._tried = MEMORY

    def tokens(self, depth: int) -> float:
        """Of a round with so many levels, the bonus included, on average."""
        return tokens_per_round(self._accepted / self._tried, depth)


def passes_worth(left: float, pass_share: float, tokens: Callable[[int], float]) -> int:
    """How many passes to run where there is time for ``left`` of them. ``pass_share`` is a pass
    over a step; ``tokens`` says what a round of so many levels yields on average."""
    in_time = max(0, int(left))
    gain = tokens(in_time + 1) / tokens(in_time) - 1.0
    late_share = (in_time + 1 - max(0.0, left)) * pass_share
    return in_time + 1 if gain > max(late_share, LEAST_GAIN) else in_time
