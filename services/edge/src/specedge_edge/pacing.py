"""How long a session may draft before its verifier would wait for it: verdicts say when the next
draft is wanted. Until then passes cost nothing, so a round is as deep as that allows."""

from dataclasses import replace
from typing import Final

from specedge.drafting.controller import Decision
from specedge.protocol.effects import Committed
from specedge_edge.proactive import TRIP_WEIGHT, MovingMean, PassTime

# Of a pass, by how much a draft may be late. A level is worth more than that of a step; but who
# misses the batch waits for a whole one.
SLACK: Final = 0.2


class RoundPacing:
    """One session's. On the loop; ``pass_time`` is written by the compute thread."""

    def __init__(self, pass_time: PassTime) -> None:
        self._pass_time = pass_time
        self._network = MovingMean(TRIP_WEIGHT)
        self._due_s: float | None = None  # when the next draft should leave

    def observe(self, committed: Committed, now_s: float) -> None:
        """A verdict came now."""
        timing, trip_s = committed.verdict.timing, committed.round_trip_s
        if trip_s is not None:
            cloud_s = (timing.held + timing.queue + timing.draft + timing.step) / 1e3
            self._network.add(max(0.0, trip_s - cloud_s))
        self._due_s = None
        if timing.next > 0 and self._network.value is not None:
            # It counts from the end of the step, and to the draft's arrival: the way there and the
            # way back are in between.
            self._due_s = now_s + timing.next / 1e3 - self._network.value

    def paced(self, decision: Decision, now_s: float) -> Decision:
        """``decision`` with the passes that there is time for after this verdict: where a rule
        weighs passes, these cost nothing; where none does, they are as many as are run, one at
        least. As it is, if nobody said when the draft is wanted."""
        pass_s = self._pass_time.seconds
        if decision.policy is None or self._due_s is None or pass_s <= 0:
            return decision
        left = (self._due_s - now_s) / pass_s
        if decision.rule is not None:
            return replace(decision, rule=replace(decision.rule, free_passes=max(0, int(left))))
        passes = max(1, int(left + SLACK))
        return replace(decision, policy=replace(decision.policy, passes=passes))
