"""How long a session may draft before its verifier would wait for it: verdicts say when the next
draft is wanted. Until then passes cost nothing, so a round is as deep as that allows. And how many
nodes: no more than verifiers try of late."""

from dataclasses import replace
from typing import Final

from specedge.drafting.rounds import Decision
from specedge.drafting.size_limit import SizeLimit
from specedge.drafting.time_left import LevelAcceptance, passes_worth
from specedge.protocol.effects import Committed
from specedge.tree.token_tree import TokenTree
from specedge_edge.proactive import TRIP_WEIGHT, MovingMean, PassTime

# Before anything is known of a session: what its user waits for is the first token, and while the
# prompt is computed there is time for a few passes, not for many.
FIRST_PASSES: Final = 4
# Of a pass: they vary by as much, and so does the way.
PASS_MARGIN: Final = 0.2


class RoundPacing:
    """One session's. On the loop; ``pass_time`` is written by the compute thread."""

    def __init__(self, pass_time: PassTime) -> None:
        self._pass_time = pass_time
        self._network = MovingMean(TRIP_WEIGHT)
        self._size = SizeLimit()
        self._levels = LevelAcceptance()
        self._is_first = True  # no verdict came yet
        self._step_s = 0.0  # of the last verdict
        self._due_s: float | None = None  # when the next draft should leave

    def observe(self, committed: Committed, now_s: float, sent: TokenTree | None = None) -> None:
        """A verdict came now, on the draft ``sent``; None: on none."""
        self._is_first = False
        timing, trip_s = committed.verdict.timing, committed.round_trip_s
        if sent is not None and sent.num_drafted:
            self._size.note(sent.num_drafted, committed.verdict.kept)
            depth = int(sent.depth[: committed.verdict.kept + 1].max())
            self._levels.note(len(committed.tokens) - 1, depth)
        self._step_s = timing.step / 1e3
        if trip_s is not None:
            self._network.add(max(0.0, trip_s - timing.cloud_ms / 1e3))
        self._due_s = None
        if timing.next > 0 and self._network.value is not None:
            # It counts from the end of the step, and to the draft's arrival: the way there and the
            # way back are in between.
            self._due_s = now_s + timing.next / 1e3 - self._network.value

    def paced(self, decision: Decision, now_s: float) -> Decision:
        """``decision`` with no more nodes than are tried, and with the passes that there is time
        for after this verdict: where a rule weighs passes, these cost nothing; where none does,
        they are as many as are worth it, one at least. As it is, if nobody said when the draft is
        wanted."""
        policy, rule = decision.policy, decision.rule
        if policy is None:
            return decision
        policy = replace(policy, budget=int(min(policy.budget, self._size.most)))
        left = self._passes_left(now_s)
        if left is None:
            if self._is_first:
                policy = replace(policy, passes=_at_most(policy.passes, FIRST_PASSES))
            return replace(decision, policy=policy)
        if rule is not None:
            free = replace(rule, free_passes=max(0, int(left)))
            return replace(decision, policy=policy, rule=free)
        pass_share = self._pass_time.seconds / self._step_s if self._step_s > 0 else 1.0
        # No round has more levels than that, however quick the passes are.
        passes = passes_worth(min(left, policy.depth), pass_share, self._levels.tokens)
        return replace(decision, policy=replace(policy, passes=max(1, passes)))

    def _passes_left(self, now_s: float) -> float | None:
        pass_s = self._pass_time.seconds
        if self._due_s is None or pass_s <= 0:
            return None
        return (self._due_s - now_s) / pass_s - PASS_MARGIN


def _at_most(passes: int | None, most: int) -> int:
    return most if passes is None else min(passes, most)
