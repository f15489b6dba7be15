"""What the compute thread does in one go: the calls that are due, then the drafting for hosted
rounds, then one step of the engine.

Runs on the compute thread only; everything in and out is a value, but for the leases' slots and the
seats' drafters, which belong to that thread.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from specedge.engine.ports import Choosing, NodeChoices, StepItem, TargetEngine
from specedge.errors import Busy
from specedge.tree.token_tree import IntArray, TokenTree
from specedge_verifier.hosted_drafting import HostedDrafter, HostedRound
from specedge_verifier.slots import EngineCall, SlotLease

MS_PER_S = 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class TurnItem:
    """One session's part of a step, its slot not yet known. See ``StepItem``.

    hosted  what to draft in place of ``tree``, which is then the root alone; None: nothing
    """

    lease: SlotLease
    start: int
    chain: IntArray
    tree: TokenTree | None = None
    choosing: Choosing | None = None
    hosted: HostedRound | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the forward pass, without those that are still to be drafted."""
        return len(self.chain) + (self.tree.num_drafted if self.tree is not None else 0)


@dataclass(frozen=True, slots=True, eq=False)
class OwnDrafts:
    """What the verifier drafted itself for a turn.

    trees   per item: the tree to try instead of the item's own; None: that one
    ms      of all of it
    errors  what the drafter raised: those items go plainly
    """

    trees: tuple[TokenTree | None, ...] = ()
    ms: float = 0.0
    errors: tuple[Exception, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class TurnOutcome:
    """How a turn went.

    choices  per item: the target's choices, or None for prefill; empty if the step did not happen
    ms       of the step itself
    own      what was drafted before it
    busy_ms  of the whole turn, calls included, however it ended
    full     a slot or memory was missing: nothing was computed
    error    what the engine raised instead: nothing that counts was computed
    """

    choices: tuple[NodeChoices | None, ...] = ()
    ms: float = 0.0
    own: OwnDrafts = OwnDrafts()
    busy_ms: float = 0.0
    full: bool = False
    error: Exception | None = None


def run_turn(
    engine: TargetEngine,
    drafter: HostedDrafter | None,
    calls: Sequence[EngineCall],
    items: Sequence[TurnItem],
) -> TurnOutcome:
    """Make ``calls`` in order, draft for hosted rounds, then step over ``items`` (maybe none).

    What the engine or the drafter raises in a step is an outcome: it must not end the tasks around
    it. What the engine raises in a call goes up and ends the process: nobody knows then which rows
    are valid.
    """
    began_s = time.perf_counter()
    for call in calls:
        call.make(engine)
    outcome = _step(engine, items, _draft(drafter, items)) if items else TurnOutcome()
    return replace(outcome, busy_ms=_ms_since(began_s))


def _step(engine: TargetEngine, items: Sequence[TurnItem], own: OwnDrafts) -> TurnOutcome:
    began_s = time.perf_counter()
    try:
        choices = tuple(engine.step(_step_items(engine, items, own.trees)))
    except Busy:
        return TurnOutcome(own=own, full=True)
    except Exception as error:
        return TurnOutcome(own=own, error=error)
    return TurnOutcome(choices, _ms_since(began_s), own)


def _draft(drafter: HostedDrafter | None, items: Sequence[TurnItem]) -> OwnDrafts:
    began_s = time.perf_counter()
    asked = {index: item.hosted for index, item in enumerate(items) if item.hosted is not None}
    if drafter is None or not asked:
        return OwnDrafts((None,) * len(items))
    made = drafter.draft(list(asked.values()))
    trees = dict(zip(asked, made.trees, strict=True))
    all_trees = tuple(trees.get(index) for index in range(len(items)))
    return OwnDrafts(all_trees, _ms_since(began_s), made.errors)


def _step_items(
    engine: TargetEngine, items: Sequence[TurnItem], own: Sequence[TokenTree | None]
) -> list[StepItem]:
    step_items = []
    for item, drafted in zip(items, own, strict=True):
        slot = item.lease.resolve(engine)
        tree = item.tree if drafted is None else drafted
        step_items.append(StepItem(slot, item.start, item.chain, tree, item.choosing))
    return step_items


def _ms_since(started_s: float) -> float:
    return (time.perf_counter() - started_s) * MS_PER_S
