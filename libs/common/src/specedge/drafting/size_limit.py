"""How many nodes a session's drafts had better have, from what became of those sent. Pure.

A scheduler cuts drafts where a verifier's rows are dear, and the verdict says how many nodes were
tried. More than these is time spent for nothing.
"""

import math
from typing import Final

WHOLE_ROUNDS: Final = 4  # drafts in a row that were tried whole, before a larger one is tried
GROWTH: Final = 0.25


class SizeLimit:
    """One session's. ``most`` is a number of nodes; infinite while nothing was ever cut."""

    def __init__(self) -> None:
        self.most = math.inf
        self._num_whole = 0

    def note(self, num_sent: int, num_tried: int) -> None:
        """A verdict came: so many nodes were sent, so many of them tried (0: it was no try)."""
        if num_tried == 0:
            return
        if num_tried < num_sent:
            self.most, self._num_whole = num_tried, 0
            return
        self._num_whole += 1
        # Trees come in levels: what is nearly as large as allowed says as much.
        if self._num_whole >= WHOLE_ROUNDS and num_sent * (1.0 + GROWTH) >= self.most:
            self._num_whole = 0
            self.most += math.ceil(GROWTH * self.most)
