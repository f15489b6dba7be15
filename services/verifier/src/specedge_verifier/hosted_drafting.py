"""The verifier's own drafter: it drafts for hosted sessions, before each step they are in.

Belongs to the compute thread, as the target does: draft, then verify. What fails here costs a
session its speed, never its tokens: it goes on plainly. Knows nothing of messages or steps.
"""

import contextlib
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.ports import Drafter, TargetEngine
from specedge.errors import Busy
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.tree.calibration import Tally
from specedge.tree.token_tree import IntArray, TokenTree

# Without room at the drafter a session asks again after so many rounds: each time it gets in, its
# whole context is computed again.
ROUNDS_WITHOUT_ROOM: Final = 32


def _no_tokens() -> IntArray:
    return np.empty(0, dtype=np.int32)


@dataclass(slots=True, eq=False)
class DraftSeat:
    """A hosted session's place at the drafter. The loop hands it around; what it holds is the
    compute thread's.

    committed  (base,) int32, what the drafter was last told
    rounds_out rounds to go without a draft
    is_broken  the drafter raised for this session: it gets no more drafts here
    """

    drafter: TreeDrafter | None = None
    committed: IntArray = field(default_factory=_no_tokens)
    rounds_out: int = 0
    is_broken: bool = False

    def leave(self) -> None:
        """Compute thread only: give back what the drafter holds. Idempotent; never raises, since a
        drafter that fails must not take the process with it."""
        drafter, self.drafter = self.drafter, None
        self.committed = _no_tokens()
        if drafter is not None:
            with contextlib.suppress(Exception):
                drafter.close()


@dataclass(frozen=True, slots=True, eq=False)
class LeaveCall:
    """A session left its seat: an ``EngineCall``."""

    seat: DraftSeat

    def make(self, engine: TargetEngine) -> None:
        """Compute thread only."""
        self.seat.leave()


@dataclass(frozen=True, slots=True, eq=False)
class HostedRound:
    """What is to be drafted: one round of a grant.

    committed  (base,) int32, a snapshot, the root last
    stop       with the tokens that may still be generated from here
    max_nodes  rows that the step has room for, beside the chain
    max_depth  levels that the rest of the grant allows
    """

    seat: DraftSeat
    committed: IntArray
    params: SamplingParams
    stop: StopRule
    max_nodes: int
    max_depth: int


class HostedDrafter:
    """A drafter and how much to draft. Compute thread only; ``policy`` may be read anywhere.

    What its sessions' verdicts teach is shared among them.
    """

    def __init__(self, drafter: Drafter, policy: DraftPolicy) -> None:
        self.policy = policy
        self._drafter = drafter
        self._tally = Tally()

    @property
    def name(self) -> str:
        """The drafter's."""
        return self._drafter.name

    def draft(self, wanted: HostedRound) -> TokenTree | None:
        """A tree on the root, or None: nothing likely enough, no room, or the seat is broken.

        Asked again for the same round it answers the same. Raises what the drafter raises, but for
        Busy; the seat is broken then.
        """
        seat = wanted.seat
        if seat.is_broken:
            return None
        if seat.rounds_out > 0:
            seat.rounds_out -= 1
            return None
        try:
            tree = self._grow(wanted)
        except Busy:
            seat.leave()
            seat.rounds_out = ROUNDS_WITHOUT_ROOM
            return None
        except Exception:
            seat.leave()
            seat.is_broken = True
            raise
        return tree if tree.num_drafted else None

    def _grow(self, wanted: HostedRound) -> TokenTree:
        policy = replace(
            self.policy,
            depth=min(self.policy.depth, wanted.max_depth),
            budget=min(self.policy.budget, wanted.max_nodes),
        )
        return self._seated(wanted).draft(policy)

    def _seated(self, wanted: HostedRound) -> TreeDrafter:
        """The session's drafter, on today's root: it is told what was committed since, all of it
        the target's own choice, so its last tree is judged by that."""
        seat, committed = wanted.seat, wanted.committed
        drafter, num_known = seat.drafter, len(seat.committed)
        if drafter is None or not np.array_equal(committed[:num_known], seat.committed):
            seat.leave()
            seat.drafter = drafter = TreeDrafter(self._drafter, self._tally)
            drafter.start(committed, wanted.params, wanted.stop)
        elif len(committed) > num_known:
            *path, bonus = committed[num_known:].tolist()
            drafter.on_verdict(path, bonus)
        seat.committed = committed
        return drafter
