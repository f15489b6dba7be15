"""How a verifier's batches are formed, as a port, and the two simple ways: at once, or by barrier.

``GreedyDispatch`` is work-conserving: what waits goes at once, as long as one full batch runs and
one is staged at most. ``StaticDispatch`` is the barrier of the paper's own code: groups of
sessions, each of which goes when all of its own wait. Pure.
"""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from specedge.ids import SessionKey
from specedge.protocol.messages import MAX_NODES
from specedge.protocol.reports import Stat
from specedge.protocol.step_plan import rows_for_edges
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.batching import (
    BATCH_BYTES,
    UNBOUNDED,
    BatchPlanner,
    BatchRoom,
    message_bytes,
)
from specedge_scheduler.policy.types import SchedulerLimits
from specedge_scheduler.views import Verifier

Rounds = tuple[tuple[SessionKey, PendingDraft], ...]
BARRIER_SHARE: Final = 0.5  # of a round's time that it waits for the others of its group at most


class Plan(NamedTuple):
    """What to do now with one verifier.

    rounds  to be sent as one batch; empty: nothing goes now
    reason  why they go, or why they wait, in a word
    wake_s  when to ask again even if nothing happens
    nodes   how many nodes of each go
    next_s  per edge's round: from the step's end until its next draft is wanted; 0: at once
    deaf_below  while fewer rounds wait, those that come before ``wake_s`` change nothing of this:
            it is not asked for each of them
    """

    rounds: Rounds = ()
    reason: str = ""
    wake_s: float = math.inf
    nodes: int = MAX_NODES
    next_s: Mapping[SessionKey, float] | None = None
    deaf_below: int = 0


class Dispatch(Protocol):
    """One verifier's. Keeps only what its own fairness needs."""

    def plan(self, verifier: Verifier, now_s: float) -> Plan:
        """What goes now of ``verifier.waiting``, which is not empty. Asked again at once after
        each batch that goes, and when anything is heard of the verifier or its sessions."""
        ...


def room_of(verifier: Verifier, limits: SchedulerLimits) -> BatchRoom:
    """The largest batch that this verifier is given: what a step of its takes, but for the rows
    that it keeps for others."""
    rows = limits.max_batch_nodes
    if verifier.stat.step_rows:
        rows = max(1, min(rows, _rows_of_step(verifier.stat)))
    return BatchRoom(
        rows, limits.max_batch_sessions or UNBOUNDED, limits.max_batch_context or UNBOUNDED
    )


def _rows_of_step(stat: Stat) -> int:
    """For edges' rounds, if the verifier goes on with prefill and hosted rounds as in its last
    step."""
    if not stat.steps:
        return stat.step_rows
    last = stat.steps[-1]
    return rows_for_edges(stat.step_rows, has_prefill=last.prefill > 0, num_hosted=last.hosted)


def has_room_for_all(verifier: Verifier, limits: SchedulerLimits) -> bool:
    """Whether one batch holds a round of every session that lives there."""
    room, num_sessions = room_of(verifier, limits), len(verifier.sessions)
    fits = num_sessions <= room.sessions and num_sessions * verifier.usual.rows <= room.rows
    return fits and num_sessions * verifier.usual.context <= room.context


class GreedyDispatch:
    """As much as the running and the staged batch leave room for."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._planner = BatchPlanner()

    def plan(self, verifier: Verifier, now_s: float) -> Plan:
        """See ``Dispatch``."""
        waiting, full = verifier.waiting, room_of(verifier, self._limits)
        num_sent = verifier.pipeline.num_rows
        num_staged, _, context = verifier.pipeline.staged
        rows = min(full.rows, self._limits.max_batches * full.rows - num_sent)
        room = BatchRoom(rows, full.sessions - num_staged, full.context - context)
        if room.is_none:
            return Plan(reason="full")
        chosen = self._planner.plan(waiting, room, at_least_one=num_sent == 0)
        return Plan(tuple(chosen), "free" if num_sent == 0 else "staged")


class StaticDispatch:
    """Sessions in groups of one batch each, in the order of their coming. A group whose member is
    gone goes without it once half of a waiting round's time is over: a barrier alone would stand
    for ever."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._planner = BatchPlanner()

    def plan(self, verifier: Verifier, now_s: float) -> Plan:
        """See ``Dispatch``."""
        waiting = verifier.waiting
        if hosted := hosted_rounds(waiting):
            return Plan(hosted, "hosted", nodes=0)
        if verifier.pipeline.staged[0]:
            return Plan(reason="full")
        room = room_of(verifier, self._limits)
        wake_s = math.inf
        for group in self._groups(verifier, min(room.sessions, room.rows)):
            present = {key: waiting[key] for key in group if key in waiting}
            if not present:
                continue
            oldest = min(present.values(), key=lambda one: one.arrived_s)
            patience_s = BARRIER_SHARE * (oldest.deadline_s - oldest.arrived_s)
            if len(present) == len(group) or now_s >= oldest.arrived_s + patience_s:
                return Plan(tuple(self._planner.plan(present, room)), "barrier")
            wake_s = min(wake_s, oldest.arrived_s + patience_s)
        return Plan(reason="barrier", wake_s=wake_s)

    def _groups(self, verifier: Verifier, size: int) -> list[list[SessionKey]]:
        """Those who wait for each other. One whose round is complete first comes first. Of hosted
        sessions, which go on by themselves, only those that draft again."""
        ordered = sorted(verifier.sessions.values(), key=lambda session: session.number)
        waiting = verifier.waiting
        keys = [one.key for one in ordered if not one.is_hosted or one.key in waiting]
        groups = [keys[start : start + size] for start in range(0, len(keys), size)]
        return sorted(groups, key=lambda group: _complete_s(verifier, group))


def hosted_rounds(waiting: Mapping[SessionKey, PendingDraft]) -> Rounds:
    """Grants, as many as one message holds without nodes: they go at once, since they join every
    step from then on by themselves."""
    chosen: list[tuple[SessionKey, PendingDraft]] = []
    left_bytes = BATCH_BYTES
    for key, pending in waiting.items():
        if pending.is_hosted:
            left_bytes -= message_bytes(pending, 0)
            if left_bytes < 0 and chosen:
                break
            chosen.append((key, pending))
    return tuple(chosen)


def _complete_s(verifier: Verifier, group: list[SessionKey]) -> float:
    arrived_s = [verifier.waiting[key].arrived_s for key in group if key in verifier.waiting]
    return max(arrived_s) if len(arrived_s) == len(group) else math.inf
