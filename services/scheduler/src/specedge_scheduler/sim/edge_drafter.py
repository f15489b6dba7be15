"""A session's drafter in virtual time: it only takes time. How deep it drafts, and when it is done.

It drafts ``min`` levels of its depth always, and more, up to ``max``, where that costs nothing
because verdicts tell that the next batch is formed later, or where it pays. It shares the edge's
device with the edge's other sessions. While a draft is out it drafts ahead, when nobody needs the
device; if what it prepared is what the verdict says, those levels are there at once.
"""

from collections.abc import Sequence
from typing import Final

from specedge.drafting.size_limit import SizeLimit
from specedge.drafting.time_left import passes_worth
from specedge.protocol.effects import Committed
from specedge.tree.token_tree import TokenTree
from specedge_scheduler.sim.drafts import expected_tokens, line_tree
from specedge_scheduler.sim.draws import uniform
from specedge_scheduler.sim.edge_device import SimDevice
from specedge_scheduler.sim.measures import Measures
from specedge_scheduler.sim.scenario import EdgeSpec

TRIP_WEIGHT: Final = 0.2  # of the newest trip, in what trips take of late
LATE_GAIN: Final = 1.075  # that a draft which comes too late for the next batch must promise

_HIT = 1  # what a draw is about


class SimDrafter:
    """One session's; ``text`` and ``luck`` are that session's. ``yields``: a round's tokens by
    levels, 0 …, on average."""

    def __init__(
        self,
        spec: EdgeSpec,
        device: SimDevice,
        text: int,
        luck: Sequence[float],
        measures: Measures,
    ) -> None:
        self._spec = spec
        self._device = device
        self._text = text
        self._luck = luck
        self._measures = measures
        self._pass_s = spec.draft_pass_ms / 1000
        self._depth = spec.depth_range
        # Nodes of a level: a draft that is less deep is as wide, and so smaller.
        self._width = max(1.0, spec.nodes / max(1, self._depth.max))
        self._size = SizeLimit()
        # Ahead: a pass that finds what to bet on, one a level, and one more than can be of use.
        self._most_ahead_s = (self._depth.max + 2) * self._pass_s
        self._was_sent = False
        self._nodes_out = 0
        self._network_s: float | None = None  # of a trip, what was neither waiting nor a step
        self._due_s: float | None = None  # when the next draft should leave
        self._head_start = 0
        self._depth_out = 0  # levels of the last draft
        self._step_s = 0.05  # of the last step that it was in
        self.yields = expected_tokens(spec.acceptance, self._depth.max)

    def on_sent(self, now_s: float) -> None:
        """A draft left, or left again."""
        self._was_sent = True
        if self._spec.proactive is not None:
            self._device.begin_idle(self, self._most_ahead_s, now_s)

    def stop(self, now_s: float) -> None:
        """The session is over. Idempotent."""
        self._device.end_idle(self, now_s)

    def on_committed(self, committed: Committed, base: int, now_s: float) -> None:
        """A verdict came, after which the text has ``base`` tokens."""
        self._step_s = committed.verdict.timing.step / 1000
        self._size.note(self._nodes_out, committed.verdict.kept)
        self._due_s = self._due(committed, now_s)
        self._head_start = self._prepared(now_s, len(committed.tokens), base)

    def draft(self, max_nodes: int, room: int, now_s: float) -> tuple[TokenTree, float]:
        """The next draft, of at most ``room`` levels, and when it is done."""
        most_nodes = min(max_nodes, self._size.most)
        most = min(self._depth.max, room, int(most_nodes / self._width + 0.5))
        depth = self._choose_depth(min(self._depth.min, most), most, now_s)
        passes = max(0, depth - self._head_start)
        done_s = self._device.work(passes * self._pass_s, now_s)
        self._depth_out = depth
        tree = line_tree(depth, round(depth * self._width))
        self._nodes_out = tree.num_drafted
        return tree, done_s

    # ------------------------------------------------------------ what a verdict tells

    def _prepared(self, now_s: float, num_tokens: int, base: int) -> int:
        """Levels of the next draft that are there already."""
        if self._spec.proactive is None or not self._was_sent:
            return 0
        # The first pass while waiting finds the tokens to bet on; each further one adds a level.
        idle_s = self._device.end_idle(self, now_s)
        passes = int(idle_s / self._pass_s) if self._pass_s else self._depth.max + 1
        if passes < 1:
            return 0
        is_hit = self._is_hit(self._spec.proactive.hit, num_tokens, base)
        self._measures.note_bet(is_hit)
        return min(passes - 1, self._depth.max) if is_hit else 0

    def _due(self, committed: Committed, now_s: float) -> float | None:
        """When the next draft should leave, as an edge's pacing has it: ``next`` counts from the
        step's end to the draft's arrival, so what the network took of late is taken off."""
        timing, trip_s = committed.verdict.timing, committed.round_trip_s
        if trip_s is not None:
            away_s = max(0.0, trip_s - (timing.held + timing.queue + timing.step) / 1000)
            if self._network_s is None:
                self._network_s = away_s
            self._network_s += TRIP_WEIGHT * (away_s - self._network_s)
        if not timing.next or self._network_s is None:
            return None
        return now_s + timing.next / 1000 - self._network_s

    def _is_hit(self, share: float | None, num_tokens: int, base: int) -> bool:
        """Whether the verdict that committed so many tokens was the one that was prepared for."""
        if share is not None:
            return uniform(self._text, base, _HIT) < share
        depth, acceptance = num_tokens - 1, self._spec.acceptance
        chance = acceptance[min(depth, len(acceptance) - 1)]
        return depth == self._depth_out and self._luck[base - 1] < chance

    # ------------------------------------------------------------ how deep

    def _choose_depth(self, least: int, most: int, now_s: float) -> int:
        """What costs nothing until the next batch is formed; more only if that pays well, since
        who comes too late may wait for a whole step. Where nobody said when, what pays."""
        head = min(self._head_start, most)
        free, left_s, gain = max(head, least), 0.0, 1.0
        if self._due_s is not None:
            left_s, gain = self._due_s - now_s, LATE_GAIN
            free = min(head + max(1, self._passes_worth(left_s, most)), most)

        def rate(depth: int) -> float:
            left_for_s = max(left_s, (depth - head) * self._pass_s)
            return self.yields[depth] / (left_for_s + (self._network_s or 0.0) + self._step_s)

        best = max(range(free, most + 1), key=rate, default=free)
        return best if best == free or rate(best) > gain * rate(free) else free

    def _passes_worth(self, left_s: float, most: int) -> int:
        """As an edge's pacing weighs them."""
        if not self._pass_s:
            return most

        def tokens(depth: int) -> float:
            return self.yields[min(depth, len(self.yields) - 1)]

        return passes_worth(left_s / self._pass_s, self._pass_s / self._step_s, tokens)
