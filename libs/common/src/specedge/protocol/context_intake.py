"""What a verifier does with chunks of context until a context is complete. Knows neither the log
nor the work; changed by the verifier session alone."""

from specedge.protocol.context import ContextAssembly
from specedge.protocol.messages import ContextHeader
from specedge.tree.token_tree import IntArray


class ContextIntake:
    """At most one context coming in.

    has_moved  chunks came since the last draft that waits for them
    is_news    chunks came since the last progress message
    """

    __slots__ = ("assembly", "has_moved", "is_news")

    def __init__(self) -> None:
        self.assembly: ContextAssembly | None = None
        self.has_moved = False
        self.is_news = False

    @property
    def is_open(self) -> bool:
        """Whether a context is coming in, complete or not."""
        return self.assembly is not None

    @property
    def is_complete(self) -> bool:
        """Whether all its tokens are here."""
        return self.assembly is not None and self.assembly.is_complete

    def take(self, header: ContextHeader, ids: IntArray) -> str | None:
        """Take in a chunk; a context of another hash or a later round replaces the one coming in.
        What is worth counting about it, or None."""
        count = None
        if self.assembly is None or not self.assembly.owns(header):
            if self.assembly is not None:
                if header.round < self.assembly.header.round:
                    return "stale_context"
                count = "replaced_context"
            self.assembly = ContextAssembly(header)
        if not self.assembly.add(header, ids):
            return "duplicate_chunk"
        self.has_moved = self.is_news = True
        return count

    def is_worth_waiting_for(self, round_: int) -> bool:
        """Whether a draft of this round may wait: its context is coming in, and moved since a
        draft last asked."""
        if self.assembly is None or self.assembly.header.round != round_ or not self.has_moved:
            return False
        self.has_moved = False
        return True

    def drop_before(self, round_: int) -> None:
        """Forget a context of an earlier round."""
        if self.assembly is not None and self.assembly.header.round < round_:
            self.assembly = None

    def pop(self) -> ContextAssembly:
        """The context, no longer kept here."""
        assembly, self.assembly = self.assembly, None
        assert assembly is not None
        return assembly
