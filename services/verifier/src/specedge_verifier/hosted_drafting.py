"""The verifier's own drafter: it drafts for hosted sessions, before each step they are in.

Belongs to the compute thread, as the target does: draft, then verify. What fails here costs a
session its speed, never its tokens: it goes on plainly. Knows nothing of messages or steps.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from specedge.drafting.reading import is_behind, read_piece
from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.ports import (
    BatchingDrafter,
    Drafter,
    ExpandAsked,
    Expansion,
    TargetEngine,
)
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

    def is_passed_over(self) -> bool:
        """Compute thread only, once a round: whether it goes without a draft."""
        if self.rounds_out > 0:
            self.rounds_out -= 1
            return True
        return self.is_broken

    def go_without(self) -> None:
        """Compute thread only: there was no room. Asks again after some rounds."""
        self.leave()
        self.rounds_out = ROUNDS_WITHOUT_ROOM

    def give_up(self) -> None:
        """Compute thread only: the drafter raised for this session."""
        self.leave()
        self.is_broken = True

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


@dataclass(frozen=True, slots=True, eq=False)
class OwnTrees:
    """What was drafted for some hosted rounds.

    trees   per round: a tree on its root, or None: nothing likely enough, no room, a broken seat
    errors  what the drafter raised, each for other sessions: their seats are broken
    """

    trees: tuple[TokenTree | None, ...]
    errors: tuple[Exception, ...]


class HostedDrafter:
    """A drafter and how much to draft. Compute thread only; ``policy`` may be read anywhere.

    What its sessions' verdicts teach is shared among them, and starts as ``tally``.
    """

    def __init__(self, drafter: Drafter, policy: DraftPolicy, tally: Tally | None = None) -> None:
        self.policy = policy
        self._drafter = drafter
        self._tally = Tally() if tally is None else tally
        self._has_read = False  # before this step

    @property
    def name(self) -> str:
        """The drafter's."""
        return self._drafter.name

    def draft(self, rounds: Sequence[HostedRound]) -> OwnTrees:
        """Draft them all, level by level, so that a drafter that can runs one pass for all. Asked
        again for the same round it answers the same. Raises nothing."""
        errors: list[Exception] = []
        self._has_read = False
        begun = [one.seat for one in rounds if self._begin(one, errors)]
        growing = begun
        while growing:
            growing = self._grow(growing, errors)
        trees = {id(seat): _finish(seat) for seat in begun}
        return OwnTrees(tuple(trees.get(id(one.seat)) for one in rounds), tuple(errors))

    def _begin(self, wanted: HostedRound, errors: list[Exception]) -> bool:
        """Whether the session is drafted for, its drafter on today's root."""
        seat = wanted.seat
        policy = replace(
            self.policy,
            depth=min(self.policy.depth, wanted.max_depth),
            budget=min(self.policy.budget, wanted.max_nodes),
        )
        if seat.is_passed_over() or policy.depth < 1 or policy.budget < 1:
            return False
        try:
            drafter = self._seated(wanted)
            if self._reads(drafter):
                return False
            drafter.begin(policy)
        except Busy:
            seat.go_without()
        except Exception as error:
            seat.give_up()
            errors.append(error)
        return seat.drafter is not None

    def _reads(self, drafter: TreeDrafter) -> bool:
        """Whether the session goes without a draft, since there is much that the drafter does not
        know yet. Of that it reads a piece before each step, of one session: all wait for it."""
        if self._has_read:
            return is_behind(drafter.session)
        self._has_read = read_piece(drafter.session)
        return self._has_read

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

    def _grow(self, seats: Sequence[DraftSeat], errors: list[Exception]) -> list[DraftSeat]:
        """One pass for all of ``seats``; those that may grow further."""
        asked = []
        for seat in seats:
            assert seat.drafter is not None
            if len(nodes := seat.drafter.plan_step()):
                tree = seat.drafter.growing.tree
                asked.append((seat, ExpandAsked(seat.drafter.session, tree, nodes)))
        if len(asked) > 1 and isinstance(self._drafter, BatchingDrafter):
            return _grow_together(self._drafter, asked, errors)
        return [seat for seat, wanted in asked if _grow_alone(seat, wanted, errors)]


def _grow_together(
    drafter: BatchingDrafter,
    asked: Sequence[tuple[DraftSeat, ExpandAsked]],
    errors: list[Exception],
) -> list[DraftSeat]:
    """In one pass: nobody can tell whose fault an error is, so all give up."""
    try:
        expansions = drafter.expand_together([wanted for _, wanted in asked])
    except Exception as error:
        for seat, _ in asked:
            seat.give_up()
        errors.append(error)
        return []
    return [
        seat
        for (seat, wanted), expansion in zip(asked, expansions, strict=True)
        if expansion is not None and _take(seat, wanted, expansion, errors)
    ]


def _grow_alone(seat: DraftSeat, wanted: ExpandAsked, errors: list[Exception]) -> bool:
    """Whether it may grow further. Without memory for more, what is there already is tried."""
    try:
        expansion = wanted.session.expand(wanted.tree, wanted.nodes)
    except Busy:
        return False
    except Exception as error:
        seat.give_up()
        errors.append(error)
        return False
    return _take(seat, wanted, expansion, errors)


def _take(
    seat: DraftSeat, wanted: ExpandAsked, expansion: Expansion, errors: list[Exception]
) -> bool:
    assert seat.drafter is not None
    try:
        # Nobody here asks what a pass took.
        seat.drafter.take_step(wanted.nodes, expansion, ms=0.0)
    except Exception as error:
        seat.give_up()
        errors.append(error)
        return False
    return True


def _finish(seat: DraftSeat) -> TokenTree | None:
    if seat.drafter is None:
        return None
    if len(seat.drafter.growing.tree) == 1:
        if len(seat.drafter.plan_step()):  # the root could not be expanded: there is no memory
            seat.go_without()
        return None
    tree = seat.drafter.finish().tree
    return tree if tree.num_drafted else None
