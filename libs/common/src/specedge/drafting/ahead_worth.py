"""How much a draft must promise to be sent ahead of the verdict. Pure.

A round begun from a draft sent ahead saves its session what lies between two steps, and takes as
much of the verifier as any other. One that waits for the verdict brings a better draft. What is
given up is worth what is saved where

    promised = usual - saved_ms / price

with the ``usual`` promise of drafts that were waited for though something of them was there, and
the ``price`` of a token: the milliseconds that a session waits for one, and those that a verifier
computes for one, both being as dear.
"""

from typing import Final

from specedge.drafting.averages import Average
from specedge.drafting.controller import RoundOutcome

# Over so many rounds, of all sessions of an edge together.
MEMORY: Final = 64.0
# Drafts waited for, before anything is concluded.
ENOUGH: Final = 8.0
# Never less than this: it would be a step for next to nothing.
LEAST: Final = 0.3


class AheadWorth:
    """What an edge's rounds brought and took, of late. Called on the loop."""

    def __init__(self) -> None:
        self._usual, self._saved_ms = Average(MEMORY), Average(MEMORY)
        self._tokens, self._took_ms = Average(MEMORY), Average(MEMORY)

    @property
    def least(self) -> float:
        """Nodes expected to be accepted below an outcome, at least, for it to be sent ahead."""
        if self._usual.weight < ENOUGH or self._tokens.mean <= 0 or self._took_ms.mean <= 0:
            return LEAST
        price_ms = self._took_ms.mean / self._tokens.mean
        return max(LEAST, self._usual.mean - self._saved_ms.mean / price_ms)

    def note(self, outcome: RoundOutcome, *, had_head_start: bool) -> None:
        """A verdict came. ``had_head_start``: the draft was waited for, and some of its levels were
        there before the verdict. Not for a session's first round, which reads the prompt."""
        if outcome.gap_ms is not None:
            elapsed_ms = outcome.gap_ms
        elif outcome.round_trip_ms is not None:
            elapsed_ms = outcome.draft_ms + outcome.round_trip_ms
        else:
            return
        own_rows = outcome.num_tried + 1
        of_verifier_ms = outcome.step_ms * own_rows / max(own_rows, outcome.step_rows)
        self._tokens.add(outcome.num_accepted + 1)
        self._took_ms.add(elapsed_ms + of_verifier_ms)
        if had_head_start and outcome.gap_ms is None:
            self._usual.add(outcome.expected)
            # Where there is a queue, nothing is begun ahead of it.
            self._saved_ms.add(max(0.0, elapsed_ms - outcome.queue_ms - outcome.step_ms))
