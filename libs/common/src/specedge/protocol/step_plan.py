"""What goes into the next step: verification, then hosted rounds, prefill in what is left. Pure.

Each group in the order of asking, so nobody waits longer than those before him; but who goes on
with a row or a few goes before who begins with many, the end of a prompt: else a handful of
newcomers would stop everybody. An edge's round goes whole or not at all; a hosted one is drafted
here, so its draft is cut to the room there is. However many rounds of edges wait, hosted ones go
on, and so does prefill; and while anybody goes on, prompts get no more of a step than
``prompt_rows``, since all wait for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from specedge.ids import SessionKey
from specedge.protocol.prefill_share import plan_chunks, room_for_decoding
from specedge.protocol.verifier_effects import WantStep

LEAST_HOSTED_SHARE: Final = 8  # at least 1/8 of the room while edges' rounds wait too
FEW_ROWS: Final = 8  # of a chain: its session goes on


@dataclass(frozen=True, slots=True)
class StepRoom:
    """How large a step may be.

    rows          of it all
    hosted_nodes  that may be drafted here for one hosted round; 0: it goes as its root alone
    hosted_share  of the rows, what hosted rounds may take while edges' rounds wait, 0 … 1
    prompt_rows   for prompts, while anybody goes on; None: all that is left
    """

    rows: int
    hosted_nodes: int = 0
    hosted_share: float = 1.0
    prompt_rows: int | None = None

    @property
    def most_prompt_rows(self) -> int:
        """``prompt_rows`` as a number."""
        return self.rows if self.prompt_rows is None else self.prompt_rows


@dataclass(frozen=True, slots=True)
class Planned:
    """One session's part: the first ``num_chain`` tokens of its chain, and its tree, if any;
    ``num_nodes`` may be drafted here in its place."""

    key: SessionKey
    num_chain: int
    num_nodes: int = 0


def num_rows(want: WantStep) -> int:
    """Rows it would add, taken whole; of a hosted round, before it is drafted."""
    return len(want.chain) + (want.tree.num_drafted if want.tree is not None else 0)


def rows_for_edges(rows: int, *, has_prefill: bool, num_hosted: int) -> int:
    """What edges' rounds get of a step's rows, however many wait, beside prefill and so many hosted
    rows. For schedulers: what a batch has beyond that would wait at the verifier."""
    for_decoding = room_for_decoding(rows, prefill_waits=has_prefill)
    return for_decoding - min(max(1, for_decoding // LEAST_HOSTED_SHARE), num_hosted)


def plan_step(wants: Mapping[SessionKey, WantStep], room: StepRoom) -> list[Planned]:
    """The next step out of ``wants`` (in order of asking): at most ``room.rows`` rows, unless a
    single round is larger than what it finds. Empty only if ``wants`` is."""
    prefill = [key for key, want in wants.items() if want.tree is None]
    hosted = [key for key, want in wants.items() if want.tree is not None and want.is_hosted]
    drafted = [key for key, want in wants.items() if want.tree is not None and not want.is_hosted]
    for_decoding = room_for_decoding(room.rows, prefill_waits=bool(prefill))
    least = _least_for_hosted(wants, hosted, room, for_decoding) if drafted else 0
    goes_on = any(_is_going_on(wants[key]) for key in (*drafted, *hosted))
    for_prompts = room.most_prompt_rows if goes_on else room.rows
    planned = _take_rounds(wants, drafted, for_decoding - least, for_prompts)
    left = max(for_decoding - sum(num_rows(wants[one.key]) for one in planned), least)
    if drafted:
        left = min(left, max(1, int(room.hosted_share * room.rows)))
    planned += _take_hosted(wants, hosted, left, for_prompts, room.hosted_nodes)
    rows = sum(num_rows(wants[one.key]) + one.num_nodes for one in planned)
    # However large the rounds were, a prefill moves on.
    left = min(for_prompts, max(room.rows - rows, room.rows - for_decoding))
    chunks = plan_chunks([len(wants[key].chain) for key in prefill], left)
    planned += [Planned(key, size) for key, size in zip(prefill, chunks, strict=True) if size]
    return planned


def _least_for_hosted(
    wants: Mapping[SessionKey, WantStep], keys: Sequence[SessionKey], room: StepRoom, rows: int
) -> int:
    """Of ``rows``, how many hosted rounds get however many of edges' rounds wait."""
    wanted = sum(num_rows(wants[key]) + room.hosted_nodes for key in keys)
    return min(max(1, rows // LEAST_HOSTED_SHARE), wanted)


def _is_going_on(want: WantStep) -> bool:
    """Whether it is a round of a session whose context is computed, but for the last tokens."""
    return len(want.chain) <= FEW_ROWS


def _take_rounds(
    wants: Mapping[SessionKey, WantStep], keys: Sequence[SessionKey], room: int, for_prompts: int
) -> list[Planned]:
    """Those that go on, then those that begin: as many as fit, and at least the first of each."""
    going_on = [key for key in keys if _is_going_on(wants[key])]
    beginning = [key for key in keys if not _is_going_on(wants[key])]
    kept = min(num_rows(wants[beginning[0]]), room // 2) if beginning else 0
    planned = _take_whole(wants, going_on, room - kept)
    left = room - sum(num_rows(wants[one.key]) for one in planned)
    return planned + _take_whole(wants, beginning, min(left, for_prompts))


def _take_whole(
    wants: Mapping[SessionKey, WantStep], keys: Sequence[SessionKey], room: int
) -> list[Planned]:
    """As many as fit, at least the first: who is too large for this step is first in the next."""
    planned: list[Planned] = []
    rows = 0
    for key in keys:
        rows += num_rows(wants[key])
        if planned and rows > room:
            break
        planned.append(Planned(key, len(wants[key].chain)))
    return planned


def _take_hosted(
    wants: Mapping[SessionKey, WantStep],
    keys: Sequence[SessionKey],
    room: int,
    for_prompts: int,
    max_nodes: int,
) -> list[Planned]:
    """As many roots as fit; their drafts share what room is left."""
    taken = _take_rounds(wants, keys, room, for_prompts)
    left = room - sum(one.num_chain for one in taken)
    nodes = plan_chunks([max_nodes] * len(taken), left)
    return [Planned(one.key, one.num_chain, size) for one, size in zip(taken, nodes, strict=True)]
