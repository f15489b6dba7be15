"""What the rows of a draft are worth to a step: learned from what was accepted. Pure.

A draft's last nodes are its least likely ones. Where a row costs a verifier time that others wait
for, they are worth less than what the same time yields elsewhere: drafts are cut there. What counts
is not what edges promise, but what their rounds yielded, level by level.
"""

from collections.abc import Callable, Collection
from itertools import accumulate
from typing import Final

from specedge.ids import SessionKey
from specedge.protocol.messages import MAX_NODES
from specedge_scheduler.pipeline import PendingDraft

MEMORY: Final = 512.0  # rounds that reached a level
KEPT: Final = 1.0 - 1.0 / MEMORY
DOUBT: Final = 8.0  # rounds that what the level above yields is worth to a level
LONGER: Final = 0.99  # of the best rate is enough for a longer draft: only what goes is learned
SETTLED_ROUNDS: Final = 32  # at the first level, before anything is cut
LEAST_NODES: Final = 4  # of a draft, that go however dear rows are
MOST_LEVELS: Final = 32  # told apart
SIZES_TRIED: Final = 12
GONE_KEPT: Final = 64  # sessions that are gone, before they are looked for

# Milliseconds of a step with so many rows of these rounds.
StepOfRows = Callable[[int], float]


class RowWorth:
    """One verifier's sessions together. ``note`` every round that goes, in order."""

    def __init__(self) -> None:
        # Per level: rounds whose draft was right so far and went on, and those right there too.
        self._seen: list[float] = []
        self._right: list[float] = []
        self._last: dict[SessionKey, tuple[int, int, int]] = {}  # round, committed, levels sent

    @property
    def is_known(self) -> bool:
        """Whether enough was seen to cut by."""
        return bool(self._seen) and self._seen[0] >= SETTLED_ROUNDS

    def note(
        self,
        rounds: Collection[tuple[SessionKey, PendingDraft]],
        max_nodes: int,
        living: Collection[SessionKey],
    ) -> float:
        """These go now, with at most so many nodes each; what they start from tells what their
        sessions' last rounds yielded. ``living`` are all sessions there are. How many tokens the
        rounds are worth together."""
        if len(self._last) > len(living) + GONE_KEPT:
            self._last = {key: last for key, last in self._last.items() if key in living}
        most_levels = max([pending.num_levels for _, pending in rounds], default=0)
        worth = list(accumulate(self._reach(most_levels)))
        tokens = 0.0
        for key, pending in rounds:
            number, num_levels = pending.draft.round, pending.num_levels
            if pending.num_nodes > max_nodes:
                num_levels = max(pending.levels[:max_nodes], default=0)
            last = self._last.get(key)
            if last is not None and last[0] == number - 1:
                self._learn(pending.committed - last[1] - 1, last[2])
            self._last[key] = number, pending.committed, num_levels
            tokens += worth[min(num_levels, MOST_LEVELS)]
        return tokens

    def best_cap(
        self, rounds: Collection[PendingDraft], step_ms: StepOfRows, rest_ms: float
    ) -> int:
        """How many nodes of each draft yield most tokens per second, if ``rest_ms`` of the time per
        step passes however long it is. ``MAX_NODES``: all of them."""
        gains = self._gains(rounds)
        rows = sum([pending.num_rows - pending.num_nodes for pending in rounds])
        tokens = float(len(rounds))
        stride = max(1, len(gains) // SIZES_TRIED)
        rates: list[tuple[int, float]] = []
        for num_nodes, (gain, num_drafts) in enumerate(gains, start=1):
            tokens, rows = tokens + gain, rows + num_drafts
            is_tried = num_nodes % stride == 0 or num_nodes == len(gains)
            if is_tried and num_nodes >= LEAST_NODES:
                rates.append((num_nodes, tokens / max(rest_ms + step_ms(rows), 1e-6)))
        enough = LONGER * max((rate for _, rate in rates), default=0.0)
        cap = max((num_nodes for num_nodes, rate in rates if rate >= enough), default=len(gains))
        return cap if cap < len(gains) else MAX_NODES

    def _gains(self, rounds: Collection[PendingDraft]) -> list[tuple[float, int]]:
        """Of the first nodes of all drafts, of the second ones, …: tokens that they add, and how
        many there are."""
        deepest = max([pending.num_levels for pending in rounds], default=0)
        reach = self._reach(deepest)
        reach += reach[-1:] * (deepest - MOST_LEVELS)  # levels beyond are not told apart
        size = max([pending.num_nodes for pending in rounds], default=0)
        gains, counts = [0.0] * size, [0] * size
        for pending in rounds:
            levels = pending.levels
            num_at = [0] * (pending.num_levels + 1)
            for level in levels:
                num_at[level] += 1
            worth = [chance / (num or 1) for chance, num in zip(reach, num_at, strict=False)]
            for node, level in enumerate(levels):
                gains[node] += worth[level]
                counts[node] += 1
        return list(zip(gains, counts, strict=True))

    def _reach(self, levels: int) -> list[float]:
        """By level, from 0 to so many, ``MOST_LEVELS`` at most: how often the accepted path goes so
        far."""
        reach, chance, far = [1.0], 0.5, 1.0
        for level in range(min(levels, MOST_LEVELS)):
            if level < len(self._seen):
                chance = (self._right[level] + DOUBT * chance) / (self._seen[level] + DOUBT)
            far *= chance
            reach.append(far)
        return reach

    def _learn(self, num_accepted: int, num_levels: int) -> None:
        seen, right = self._seen, self._right
        num_seen = min(num_accepted + 1, num_levels, MOST_LEVELS)
        while len(seen) < num_seen:
            seen.append(0.0)
            right.append(0.0)
        for level in range(num_seen):
            seen[level] = KEPT * seen[level] + 1.0
            right[level] = KEPT * right[level] + (1.0 if level < num_accepted else 0.0)
