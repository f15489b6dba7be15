"""What each edge may send: messages and nodes a second, with a burst. Pure."""

from collections.abc import Container

from specedge.ids import EdgeId
from specedge_scheduler.policy.admission import TokenBucket
from specedge_scheduler.policy.types import SchedulerLimits


class _Allowance:
    """One edge's two buckets."""

    def __init__(self, limits: SchedulerLimits, now_s: float) -> None:
        burst_s = limits.burst_s
        self.messages = TokenBucket(limits.messages_per_s, limits.messages_per_s * burst_s, now_s)
        self.nodes = TokenBucket(limits.nodes_per_s, limits.nodes_per_s * burst_s, now_s)

    def take(self, num_nodes: int, num_messages: int, now_s: float) -> int:
        """See ``Allowances.take``."""
        if self.messages.take(num_messages, now_s):
            if self.nodes.take(num_nodes, now_s):
                return 0
            self.messages.give_back(num_messages)
        return max(self.messages.wait_ms(now_s), self.nodes.wait_ms(now_s))

    def is_unused(self, now_s: float) -> bool:
        """Whether a new one would allow as much."""
        return self.messages.is_full(now_s) and self.nodes.is_full(now_s)


class Allowances:
    """Of all edges."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._of: dict[EdgeId, _Allowance] = {}

    def take(self, edge: EdgeId, num_nodes: int, now_s: float, num_messages: int = 1) -> int:
        """Pay for a message of so many nodes, which becomes ``num_messages``; 0, or the
        milliseconds to wait: then nothing was paid."""
        allowance = self._of.get(edge)
        if allowance is None:
            allowance = self._of[edge] = _Allowance(self._limits, now_s)
        return allowance.take(num_nodes, num_messages, now_s)

    def forget_unused(self, kept: Container[EdgeId], now_s: float) -> None:
        """Drop those of edges that went away: not ``kept``, and with all of it at hand."""
        for edge, allowance in list(self._of.items()):
            if edge not in kept and allowance.is_unused(now_s):
                del self._of[edge]
