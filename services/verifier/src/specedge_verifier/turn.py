"""What the compute thread does in one go: the calls that are due, then one step of the engine.

Runs on the compute thread only; everything in and out is a value, but for the leases' slots, which
belong to that thread.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from specedge.engine.ports import Choosing, NodeChoices, StepItem, TargetEngine
from specedge.errors import Busy
from specedge.tree.token_tree import IntArray, TokenTree
from specedge_verifier.slots import EngineCall, SlotLease


@dataclass(frozen=True, slots=True, eq=False)
class TurnItem:
    """One session's part of a step, its slot not yet known. See ``StepItem``."""

    lease: SlotLease
    start: int
    chain: IntArray
    tree: TokenTree | None = None
    choosing: Choosing | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the forward pass."""
        return len(self.chain) + (self.tree.num_drafted if self.tree is not None else 0)


@dataclass(frozen=True, slots=True, eq=False)
class TurnOutcome:
    """How a turn went.

    choices  per item: the target's choices, or None for prefill; empty if the step did not happen
    ms       of the step itself
    full     a slot or memory was missing: nothing was computed
    error    what the engine raised instead: nothing that counts was computed
    """

    choices: tuple[NodeChoices | None, ...] = ()
    ms: float = 0.0
    full: bool = False
    error: Exception | None = None


def run_turn(
    engine: TargetEngine, calls: Sequence[EngineCall], items: Sequence[TurnItem]
) -> TurnOutcome:
    """Make ``calls`` in order, then step over ``items`` (maybe none).

    What the engine raises in a step is an outcome: it must not end the tasks around it. What it
    raises in a call goes up and ends the process: nobody knows then which rows are valid.
    """
    for call in calls:
        call.make(engine)
    if not items:
        return TurnOutcome()
    started_s = time.perf_counter()
    try:
        step_items = [
            StepItem(item.lease.resolve(engine), item.start, item.chain, item.tree, item.choosing)
            for item in items
        ]
        choices = tuple(engine.step(step_items))
    except Busy:
        return TurnOutcome(full=True)
    except Exception as error:
        return TurnOutcome(error=error)
    return TurnOutcome(choices, (time.perf_counter() - started_s) * 1000)
