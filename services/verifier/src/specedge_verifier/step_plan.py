"""What goes into the next step: verification, then hosted rows, prefill in what is left. Pure.

Each group in the order of asking, so nobody waits longer than those before him. A round goes whole
or not at all; only prefill is cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from specedge.ids import SessionKey
from specedge.protocol.effects import WantStep
from specedge_verifier.prefill import plan_chunks, room_for_decoding


@dataclass(frozen=True, slots=True)
class Planned:
    """One session's part: the first ``num_chain`` tokens of its chain, and its tree, if any."""

    key: SessionKey
    num_chain: int


def num_rows(want: WantStep) -> int:
    """Rows it would add, taken whole."""
    return len(want.chain) + (want.tree.num_drafted if want.tree is not None else 0)


def plan_step(wants: Mapping[SessionKey, WantStep], max_step_tokens: int) -> list[Planned]:
    """The next step out of ``wants`` (in order of asking): at most ``max_step_tokens`` rows, unless
    a single round is larger. Empty only if ``wants`` is."""
    prefill = [key for key, want in wants.items() if want.tree is None]
    decoding = [key for key, want in wants.items() if want.tree is not None]
    decoding.sort(key=lambda key: wants[key].is_hosted)  # stable: the order of asking stays
    room = room_for_decoding(max_step_tokens, prefill_waits=bool(prefill))
    planned: list[Planned] = []
    rows = 0
    for key in decoding:
        size = num_rows(wants[key])
        if planned and rows + size > room:
            break  # who is too large for this one is first in the next
        planned.append(Planned(key, len(wants[key].chain)))
        rows += size
    # However large the rounds were, a prefill moves on.
    left = max(max_step_tokens - rows, max_step_tokens - room)
    chunks = plan_chunks([len(wants[key].chain) for key in prefill], left)
    planned += [Planned(key, size) for key, size in zip(prefill, chunks, strict=True) if size]
    return planned
