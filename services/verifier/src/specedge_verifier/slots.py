"""Which session holds which slot of the engine's KV cache, and what closed sessions left behind.

Lives on the event loop and never touches the engine: it counts, and asks for engine calls through
``EngineCalls``, which the compute thread makes before its next step, in the order of asking.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from specedge.engine.ports import TargetEngine
from specedge.ids import EdgeId, Slot
from specedge.tree.token_tree import IntArray

WORTH_KEEPING_ROWS: Final = 16  # a shorter prefix is recomputed sooner than found


@dataclass(slots=True, eq=False)
class SlotLease:
    """A slot as the loop names it. ``slot`` is the compute thread's: None until the first step on
    it, and again once released."""

    num_tokens: int
    slot: Slot | None = None

    def resolve(self, engine: TargetEngine) -> Slot:
        """Compute thread only: the slot, leased now if it was not. Raises Busy."""
        if self.slot is None:
            self.slot = engine.lease(self.num_tokens)
        return self.slot


@dataclass(frozen=True, slots=True, eq=False)
class KeepCall:
    """``engine.keep`` with these arguments."""

    lease: SlotLease
    base: int
    path: IntArray

    def make(self, engine: TargetEngine) -> None:
        """Compute thread only."""
        if self.lease.slot is not None:
            engine.keep(self.lease.slot, self.base, self.path)


@dataclass(frozen=True, slots=True, eq=False)
class ReleaseCall:
    """``engine.release``; a lease that was never used costs nothing."""

    lease: SlotLease

    def make(self, engine: TargetEngine) -> None:
        """Compute thread only."""
        slot, self.lease.slot = self.lease.slot, None
        if slot is not None:
            engine.release(slot)


class EngineCall(Protocol):
    """Something that the compute thread does before its next step, in the order of asking."""

    def make(self, engine: TargetEngine) -> None:
        """Compute thread only."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Leftover:
    lease: SlotLease
    tokens: IntArray  # those whose rows are valid


@dataclass(slots=True)
class SlotPool:
    """``num_slots`` slots: leased to sessions, left by closed ones, or free.

    calls  what the compute thread must do before the next step; the engine loop takes them
    """

    num_slots: int
    calls: list[EngineCall] = field(default_factory=list)
    _num_leased: int = 0
    _leftovers: OrderedDict[tuple[EdgeId, int], _Leftover] = field(default_factory=OrderedDict)
    _num_left: int = 0

    @property
    def num_leased(self) -> int:
        """Slots that sessions hold."""
        return self._num_leased

    def lease(
        self, edge: EdgeId, context: IntArray, num_tokens: int
    ) -> tuple[SlotLease, int] | None:
        """A slot for a session of ``edge`` that starts on ``context``, and how many of its rows are
        valid already: those of the longest prefix that one of the edge's closed sessions shares.
        Never another edge's rows: their timing would tell what was asked. None: all are leased.
        """
        adopted = self._adopt(edge, context)
        if adopted is not None:
            self._num_leased += 1
            return adopted
        if self._num_leased + len(self._leftovers) >= self.num_slots and not self.shrink():
            return None
        self._num_leased += 1
        return SlotLease(num_tokens), 0

    def give_back(self, edge: EdgeId, lease: SlotLease, tokens: IntArray) -> None:
        """A session ended or was parked; rows of ``tokens`` ((r,), maybe none) are valid."""
        self._num_leased -= 1
        if len(tokens) < WORTH_KEEPING_ROWS:
            self.calls.append(ReleaseCall(lease))
            return
        self._num_left += 1
        self._leftovers[edge, self._num_left] = _Leftover(lease, tokens.copy())

    def shrink(self) -> bool:
        """Release what was left longest ago; False if nothing is left."""
        if not self._leftovers:
            return False
        _, oldest = self._leftovers.popitem(last=False)
        self.calls.append(ReleaseCall(oldest.lease))
        return True

    def _adopt(self, edge: EdgeId, context: IntArray) -> tuple[SlotLease, int] | None:
        best, best_rows = None, WORTH_KEEPING_ROWS - 1
        for name, leftover in self._leftovers.items():
            # The last token is the root: its row does not exist yet.
            rows = common_prefix(leftover.tokens, context[:-1]) if name[0] == edge else 0
            if rows > best_rows:
                best, best_rows = name, rows
        if best is None:
            return None
        return self._leftovers.pop(best).lease, best_rows


def common_prefix(left: IntArray, right: IntArray) -> int:
    """How many tokens two sequences share from the start."""
    shorter = min(len(left), len(right))
    differ = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(differ[0]) if len(differ) else shorter
