"""How much of each step goes to prefill, and to whom. Pure.

A step has room for a number of rows. Verification and hosted rows come first; prefill gets what is
left, so that a long prompt never stalls other people's rounds, but never less than a small share,
so that it ends however busy the verifier is.
"""

import math
from collections.abc import Sequence
from typing import Final

PREFILL_SHARE: Final = 8  # at least 1/8 of a step's rows while anybody prefills


def room_for_decoding(max_step_tokens: int, *, prefill_waits: bool) -> int:
    """Rows of a step that verification and hosted rows may take together."""
    if not prefill_waits:
        return max_step_tokens
    return max_step_tokens - max(1, max_step_tokens // PREFILL_SHARE)


def plan_chunks(remaining: Sequence[int], room: int) -> list[int]:
    """Tokens of each waiting prefill that go into a step with ``room`` rows left.

    ``remaining`` are their tokens still to do, in the order of their arrival. Shares are equal;
    what a short one does not need goes to the others, so a short prompt passes a long one. With
    less room than prefills the first come first. The result sums to min(room, sum(remaining)).
    """
    chunks = [0] * len(remaining)
    left = max(0, room)
    sharing = range(min(left, len(remaining)))
    by_size = sorted(sharing, key=lambda index: remaining[index])
    for done, index in enumerate(by_size):
        share = math.ceil(left / (len(by_size) - done))
        chunks[index] = min(remaining[index], share)
        left -= chunks[index]
    return chunks
