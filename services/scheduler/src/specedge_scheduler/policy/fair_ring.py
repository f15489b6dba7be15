"""Whose turn it is: start-time fair queueing by rows. Pure; keeps only its own counts.

Source: Goyal, Vin and Cheng, "Start-time fair queueing" (1996). Nobody who asks for more gets more
than his share of rows while others wait, nor while they are away between two rounds; alone, one
gets everything.
"""

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import Final, Generic, TypeVar

K = TypeVar("K")

FORGET_BEYOND: Final = 1024


class FairRing(Generic[K]):
    """Keys by the rows that each was served: whose turn it is has the lowest tag.

    A tag is what its key was served, in rows, on a common count that goes on with the one being
    served. Who comes back after a while starts at that count, or at his own old tag if that is
    higher: neither is absence saved up, nor does anybody get ahead by always being there.
    """

    def __init__(self) -> None:
        self._tag: dict[K, int] = {}  # of members
        self._past: dict[K, int] = {}  # of those who left ahead of the count
        self._turns: list[tuple[int, int, K]] = []  # members' tags as a heap, and outdated ones
        self._num_turns = 0
        self._count = 0

    def set_members(self, keys: Iterable[K]) -> None:
        """Newcomers join; who is not named leaves."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._tag if key not in wanted]:
            self.leave(key)
        for key in wanted:
            if key not in self._tag:
                self._set(key, max(self._past.pop(key, 0), self._count))
        if len(self._past) > FORGET_BEYOND:
            self._past = {key: tag for key, tag in self._past.items() if tag > self._count}

    def choose(self) -> K:
        """Whose turn it is. The answer stays until ``pay`` or ``leave``. There must be a member."""
        while True:
            tag, _, key = self._turns[0]
            if self._tag.get(key) == tag:
                return key
            heappop(self._turns)

    def pay(self, key: K, cost: int) -> None:
        """Charge what was served."""
        tag = self._tag[key]
        self._count = max(self._count, tag)
        self._set(key, tag + cost)

    def leave(self, key: K) -> None:
        """It waits for nothing more."""
        self._drop(key, self._tag.pop(key))

    def serve_and_leave(self, key: K, cost: int) -> None:
        """``pay`` and ``leave`` at once: without a turn that nobody takes."""
        tag = self._tag.pop(key)
        self._count = max(self._count, tag)
        self._drop(key, tag + cost)

    def _drop(self, key: K, tag: int) -> None:
        if not self._tag:  # nobody was passed over: all start alike again
            self._count = max(self._count, tag, max(self._past.values(), default=0))
            self._past.clear()
            self._turns.clear()
        elif tag > self._count:
            self._past[key] = tag

    def serve_all(self, costs: Mapping[K, int]) -> list[K]:
        """All of these are served, and nobody else is a member: whose turn was first first."""
        members, past = self._tag, self._past
        for key in [key for key in members if key not in costs]:
            self.leave(key)
        count = self._count
        tag = {
            key: members[key] if key in members else max(past.get(key, 0), count) for key in costs
        }
        served_to = max([tag[key] + cost for key, cost in costs.items()])
        self._count = max(count, served_to, max(past.values(), default=0))
        members.clear()  # nobody was passed over: all start alike again
        past.clear()
        self._turns.clear()
        return sorted(tag, key=tag.__getitem__)

    def in_turn(self) -> list[K]:
        """All members, whose turn is first first; for those who are served once and then leave."""
        tag = self._tag
        self._turns = sorted([turn for turn in self._turns if tag.get(turn[2]) == turn[0]])
        return list(dict.fromkeys([key for _, _, key in self._turns]))

    def _set(self, key: K, tag: int) -> None:
        self._tag[key] = tag
        self._num_turns += 1
        heappush(self._turns, (tag, self._num_turns, key))
