"""How much a draft may lack and still be better sent ahead of the verdict. Pure.

A round begun from a draft sent ahead saves its session what lies between two steps. One that waits
for the verdict goes on drafting where it was, and takes no more of the verifier for a better draft.
So what is lacking has to be worth less than what is saved, in tokens at the going price: the
milliseconds that a session waits for a token, and those that a verifier computes for one, both
being as dear.
"""

import math
from typing import Final

from specedge.drafting.averages import Average
from specedge.drafting.rounds import RoundOutcome

# Over so many rounds, of all sessions of an edge together.
MEMORY: Final = 64.0
# Drafts waited for, before anything is concluded.
ENOUGH: Final = 8.0


class Patience:
    """What an edge's rounds brought and took, of late. Called on the loop."""

    def __init__(self) -> None:
        self._saved_ms, self._tokens, self._took_ms = (Average(MEMORY) for _ in range(3))

    @property
    def tokens(self) -> float:
        """A draft may lack so many, to be sent ahead; infinite as long as nothing is known."""
        if self._saved_ms.weight < ENOUGH or self._took_ms.mean <= 0:
            return math.inf
        return self._saved_ms.mean * self._tokens.mean / self._took_ms.mean

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
            # Where there is a queue, nothing is begun ahead of it.
            self._saved_ms.add(max(0.0, elapsed_ms - outcome.queue_ms - outcome.step_ms))
