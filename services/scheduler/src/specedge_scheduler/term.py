"""Whose word verifiers follow: a scheduler's term, and what later ones of others mean. Pure.

Terms are times of start. A verifier follows the latest that it was sent a batch under, and drops
batches of earlier ones.
"""

from typing import Final

from specedge_scheduler.views import Verifier

TAKE_OVER_S: Final = 3.0

TermKey = tuple[int, int]


class Term:
    """One scheduler's. ``key`` is what its batches say."""

    def __init__(self, key: TermKey) -> None:
        self.key = key
        self._is_followed = False  # some verifier follows, or once followed, it

    def note_report(self, theirs: TermKey, *, is_first: bool) -> None:
        """A verifier follows that term; ``is_first``: it was not known, or was lost.

        Clocks go back: a later one that is heard of first is of somebody before us, and ours has to
        be later. One that turns up in reports that follow, or when we were followed by anybody
        before, is of our successor: we were cut off, and are back.
        """
        if theirs == self.key:
            self._is_followed = True
        elif is_first and not self._is_followed:
            self._outrank(theirs)

    def note_lost(self, verifier: Verifier, num_lost: int, now_s: float) -> None:
        """It reported, and lost so many rounds of ours.

        A successor that lives hears the same drafts, and sends batches of them. If ours go on being
        lost, and no others come, it is gone: our term becomes later, or nobody would ever be served
        again.
        """
        theirs, since_s, last = verifier.stat.epoch, verifier.outranked_s, verifier.stat.last
        if theirs <= self.key or last != verifier.outranked_last:
            verifier.outranked_s, verifier.outranked_last = None, last
        elif num_lost and since_s is None:
            verifier.outranked_s = now_s
        elif num_lost and since_s is not None and now_s - since_s > TAKE_OVER_S:
            verifier.outranked_s = None
            self._outrank(theirs)

    def _outrank(self, theirs: TermKey) -> None:
        if theirs > self.key:
            self.key = (theirs[0] + 1, 0)
