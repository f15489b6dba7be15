"""Batches as late and as full as keeps the verifier busy. Pure; the default.

While a step runs, rounds wait here until just before its end, less what a batch takes on its way;
so whoever comes meanwhile still finds a place, and turns are taken among as many as possible. At
that moment, or when nothing runs, they go, or are held for those who are nearly here, whichever
promises more tokens per second. Rounds are told when their edge's next draft is wanted.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from specedge.ids import SessionKey
from specedge.protocol.messages import MAX_NODES
from specedge.protocol.reports import Stat
from specedge_scheduler.pipeline import PendingDraft
from specedge_scheduler.policy.batching import UNBOUNDED, BatchPlanner, BatchRoom, node_cap
from specedge_scheduler.policy.dispatch import Plan, Rounds, hosted_rounds, room_of
from specedge_scheduler.policy.pace import places_in
from specedge_scheduler.policy.prospects import (
    SAME_MOMENT_S,
    Forecast,
    is_saturated,
    outlook,
    places_of,
)
from specedge_scheduler.policy.row_worth import RowWorth
from specedge_scheduler.policy.trials import Trials
from specedge_scheduler.policy.types import SchedulerLimits
from specedge_scheduler.views import Verifier

EARLY_SHARE: Final = 0.15  # of a step before its end, a full batch goes: nothing is lost by it
# Batches: what rows are worth changes slowly, and takes a while to find. Odd, since often two
# groups of sessions alternate.
CAP_EVERY: Final = 3


class JustInTimeDispatch:
    """See the module. One per verifier."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._planner = BatchPlanner()
        self._worth = RowWorth()
        self._trials = Trials()
        self._cap = MAX_NODES  # where rows are dear
        self._num_capped = 0  # batches
        self._capped_nodes = 0  # of the longest draft that the cap was found for
        self._held_since_s: float | None = None  # first decision to hold, while nothing runs
        self._room = BatchRoom(0)  # by the verifier's last report,
        self._room_by: Stat | None = None  # which is this one

    def plan(self, verifier: Verifier, now_s: float) -> Plan:
        """See ``Dispatch``."""
        if hosted := hosted_rounds(verifier.waiting):
            return Plan(hosted, "hosted", nodes=0)
        if verifier.stat is not self._room_by:
            self._room, self._room_by = room_of(verifier, self._limits), verifier.stat
        pipeline, room = verifier.pipeline, self._room
        num_staged, rows, context = pipeline.staged
        if num_staged:
            left = BatchRoom(
                room.rows - rows, room.sessions - num_staged, room.context - context, self._cap
            )
            return self._top_up(verifier, room, left, num_staged)
        if pipeline.ends_s is None:
            return self._hold_or_go(verifier, room, now_s, now_s)
        self._held_since_s = None
        stage_s = pipeline.ends_s - pipeline.lead_s
        if now_s >= stage_s - SAME_MOMENT_S:
            return self._hold_or_go(verifier, room, now_s, max(now_s, stage_s))
        early_s = stage_s - EARLY_SHARE * (pipeline.ends_s - pipeline.began_s)
        if now_s < early_s:
            return Plan(reason="early", wake_s=early_s, deaf_below=UNBOUNDED)
        if not _is_full(verifier, room):
            return Plan(reason="early", wake_s=stage_s, deaf_below=_fewest_to_fill(verifier, room))
        return self._go(verifier, room, "full", now_s)

    def _top_up(
        self, verifier: Verifier, room: BatchRoom, left: BatchRoom, num_staged: int
    ) -> Plan:
        """Who comes between the staging and the step may still be in time, if there is room
        ``left``."""
        if left.is_none:
            return Plan(reason="full")
        chosen = tuple(self._planner.plan(verifier.waiting, left, at_least_one=False))
        self._worth.note(chosen, self._cap, verifier.sessions)
        next_s = self._next_s(verifier, room, chosen, num_staged)
        return Plan(chosen, "topped_up", nodes=self._cap, next_s=next_s)

    def _hold_or_go(
        self, verifier: Verifier, room: BatchRoom, now_s: float, start_s: float
    ) -> Plan:
        if _is_full(verifier, room):
            return self._go(verifier, room, "full", now_s)
        places = min(room.sessions, places_in(verifier, room))
        forecast = Forecast(verifier, outlook(verifier, now_s, places), room, start_s)
        hold = forecast.hold(self._is_saturated(verifier, room))
        if (
            hold is not None
            and hold.until_s > now_s + SAME_MOMENT_S
            and self._may_hold(verifier, now_s)
        ):
            num_wanted = len(verifier.waiting) + hold.num_awaited
            return Plan(reason="held", wake_s=hold.until_s, deaf_below=num_wanted)
        num_first = forecast.split() if verifier.pipeline.ends_s is None else None
        if num_first is not None:
            return self._go(verifier, _smaller(room, num_first), "split", now_s)
        reason = "due" if verifier.pipeline.ends_s is not None else "idle"
        return self._go(verifier, room, reason, now_s)

    def _is_saturated(self, verifier: Verifier, room: BatchRoom) -> bool:
        waiting = verifier.waiting.values()
        rows = sum([one.rows_of(self._cap) for one in waiting]) / len(waiting)
        context = sum([one.context for one in waiting]) / len(waiting)
        drafting = sum([not one.is_hosted for one in verifier.sessions.values()])
        places = max(1, min(room.places(rows), drafting))
        return is_saturated(verifier, drafting, places, _step_s(verifier, rows, context, places))

    def _may_hold(self, verifier: Verifier, now_s: float) -> bool:
        """Holds follow one another, each for somebody else: together no longer than a step."""
        if not self._trials.habits.holds:
            return False
        if verifier.pipeline.ends_s is not None and now_s < verifier.pipeline.ends_s:
            return True
        if self._held_since_s is None:
            self._held_since_s = now_s
        rows = sum(one.num_rows for one in verifier.waiting.values())
        return now_s - self._held_since_s < verifier.estimator.predict_ms(rows) / 1000

    def _go(self, verifier: Verifier, room: BatchRoom, reason: str, now_s: float) -> Plan:
        self._held_since_s = None
        cap = self._node_cap(verifier, room)
        room = BatchRoom(room.rows, room.sessions, room.context, cap)
        chosen = tuple(self._planner.plan(verifier.waiting, room))
        tokens = self._worth.note(chosen, cap, verifier.sessions)
        self._trials.note(tokens, len(verifier.sessions), now_s)
        return Plan(chosen, reason, nodes=cap, next_s=self._next_s(verifier, room, chosen))

    def _node_cap(self, verifier: Verifier, room: BatchRoom) -> int:
        """More wait than fit: drafts are cut rather than left for the step after. Where rows are
        dear, they are cut to what pays."""
        waiting = list(verifier.waiting.values())[: room.sessions]
        if self._worth.is_known:
            most_nodes = max([one.num_nodes for one in waiting])
            if self._num_capped % CAP_EVERY == 0 or most_nodes > self._capped_nodes:
                self._cap = MAX_NODES  # what a cut yields is weighed against whole drafts
                self._cap = self._dear_cap(verifier, room, waiting)
                self._capped_nodes = most_nodes
            self._num_capped += 1
        return min(self._cap, node_cap(waiting, BatchRoom(room.rows)))

    def _dear_cap(
        self, verifier: Verifier, room: BatchRoom, waiting: Sequence[PendingDraft]
    ) -> int:
        estimator = verifier.estimator
        context = sum(one.context for one in waiting)
        rest_s = 0.0 if self._is_saturated(verifier, room) else verifier.usual.turnaround_s
        return self._worth.best_cap(
            waiting, lambda rows: estimator.predict_ms(rows, context), rest_s * 1000
        )

    # ------------------------------------------------------------ when the next draft is wanted

    def _next_s(
        self, verifier: Verifier, room: BatchRoom, chosen: Rounds, num_staged: int = 0
    ) -> dict[SessionKey, float]:
        """Per round that goes: how long after its step the batch is formed that its next draft can
        be in. The steps in between are those of the sessions that are not in this one, for which
        ``num_staged`` others are there already."""
        drafting = [one for one in verifier.sessions.values() if not one.is_hosted]
        others = len(drafting) - len(chosen) - num_staged
        if others <= 0 or not chosen or not self._trials.habits.tells:
            return {}
        num = len(chosen)
        rows = sum([one.rows_of(self._cap) for _, one in chosen]) / num
        context = sum([one.context for _, one in chosen]) / num
        places = room.places(max(1.0, rows))
        full_s = _step_s(verifier, rows, context, min(places, len(drafting)))
        if not is_saturated(verifier, len(drafting), places, full_s):
            return {}  # who comes later than that finds a place as soon
        step_s = _step_s(verifier, rows, context, min(others, places))
        shares = places_of(drafting, places)
        # What a round takes on its way, to the verifier and back, its edge knows and leaves. A step
        # of one round waits for it, so late costs no more than the wait. A larger one goes without
        # whoever is late, who then waits for a whole step: there a batch's lead is left as well.
        # So it is where several steps go by: a pass is a smaller part of what is drafted meanwhile.
        lead_s = 0.0 if places == 1 and others == 1 else verifier.pipeline.lead_s
        # Room for everybody, but not everybody is here: two groups alternate.
        least = 1 if 3 * others >= len(drafting) and len(shares) > 1 else 0
        return {
            key: max(0.0, max(least, _steps_between(*shares[key.edge])) * step_s - lead_s)
            for key, _ in chosen
        }


def _steps_between(share: float, num_sessions: int) -> int:
    """Steps that go by between two of a session, where so many share ``share`` places of each."""
    return math.ceil(num_sessions / max(share, 1e-6) - 1e-6) - 1


def _step_s(verifier: Verifier, rows: float, context: float, num_rounds: int) -> float:
    """Of a step of so many rounds of ``rows`` and ``context`` each."""
    step_ms = verifier.estimator.predict_ms(round(num_rounds * rows), round(num_rounds * context))
    return step_ms / 1000


def _is_full(verifier: Verifier, room: BatchRoom) -> bool:
    """Whether nobody who is still to come would change the batch: it is full, and no edge has more
    than its share of it."""
    waiting = verifier.waiting
    rows = sum(one.num_rows for one in waiting.values())
    if len(waiting) < room.sessions and rows < room.rows:
        return False
    usual_rows = rows / len(waiting)
    places = room.places(usual_rows)
    of_edge = Counter(key.edge for key in waiting)
    if max(of_edge.values()) == 1:
        return True
    shares = places_of(verifier.sessions.values(), places)
    fair = sum(1 if num == 1 else min(num, shares[edge][0]) for edge, num in of_edge.items())
    return fair >= places


def _fewest_to_fill(verifier: Verifier, room: BatchRoom) -> int:
    """With fewer rounds than that it is not full, however large they are."""
    limits, num = verifier.stat.limits, len(verifier.waiting)
    rows = sum(one.num_rows for one in verifier.waiting.values())
    num_largest = (room.rows - rows) // (1 + limits.nodes + limits.append)
    return num + max(1, min(room.sessions - num, num_largest))


def _smaller(room: BatchRoom, sessions: int) -> BatchRoom:
    return BatchRoom(room.rows, min(room.sessions, sessions), room.context)
