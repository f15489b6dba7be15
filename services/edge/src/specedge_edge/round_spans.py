"""What a session's rounds leave in the ring of spans: each draft's making, and its time away.
Nothing while spans are off.
"""

from specedge.clock import Clock
from specedge.protocol.effects import Committed, Drafted
from specedge.service.spans import SpanRing


class RoundSpans:
    """One session's, on a lane of its own."""

    def __init__(self, spans: SpanRing, lane: str, clock: Clock) -> None:
        self._spans = spans
        self._lane = lane
        self._clock = clock
        self._sent_s: float | None = None  # when what is out left

    def draft(self, drafted: Drafted, begun_s: float) -> None:
        """A draft or a grant left just now; its drafting began then."""
        if self._spans.is_on:
            self._sent_s = self._clock.now_s()
            name, nodes = "grant" if drafted.run else "draft", drafted.tree.num_drafted
            self._spans.add(self._lane, name, begun_s, self._sent_s, nodes=nodes)

    def verdict(self, committed: Committed) -> None:
        """On the way, in the scheduler's and the verifier's hands, until it was heard of."""
        spans, now_s, sent_s = self._spans, self._clock.now_s(), self._sent_s
        if spans.is_on and sent_s is not None:
            goes_on = committed.verdict.own or committed.next_tree is not None
            self._sent_s = now_s if goes_on else None
            spans.add(self._lane, "away", sent_s, now_s, tokens=len(committed.tokens))
