"""What answers a generation's wish for drafts, and the answer where nobody drafts: grants. Knows no
drafter and no thread."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from specedge.drafting.counts import DraftCounts
from specedge.protocol.effects import Committed, Drafted, DraftedAhead
from specedge.protocol.opening import Limits
from specedge.tree.token_tree import TokenTree

OnAhead = Callable[[DraftedAhead], None]


class Proposer(Protocol):
    """Answers ``AskDraft``: for each ``begin`` one ``drafted``, then ``on_sent`` when it left.
    Called by one generation's task."""

    def begin(self, root: int, limits: Limits) -> None:
        """Start on the next round's draft on ``root``, within ``limits``. Does not wait."""
        ...

    async def drafted(self) -> Drafted:
        """What was begun: a tree, or a grant. Cancelling it abandons the result."""
        ...

    def on_sent(self) -> None:
        """It was sent for the first time: there is time until its verdict."""
        ...

    def on_committed(self, committed: Committed) -> None:
        """Tokens became certain. Cheap; computing waits for the next ``begin``, unless the next
        round is out already, since its draft was sent ahead."""
        ...

    async def close(self) -> None:
        """Free what the drafter holds, also of a round that was begun. Idempotent."""
        ...

    @property
    def figures(self) -> "ProposerFigures":
        """What drafting did so far."""
        ...


@dataclass(frozen=True, slots=True)
class ProposerFigures:
    """``saved_ms``: the time of the passes that were not on the way since they were there."""

    counts: DraftCounts = field(default_factory=DraftCounts)
    saved_ms: float = 0.0


class HostedProposer:
    """Leaves it to the verifier: grants of ``grant_tokens`` tokens, no drafts."""

    def __init__(self, grant_tokens: int) -> None:
        self._grant_tokens = grant_tokens
        self._grant = Drafted(TokenTree.root_only(0))
        self.figures = ProposerFigures()

    def begin(self, root: int, limits: Limits) -> None:
        """A grant, or round by round with empty trees where the verifier grants nothing."""
        run = min(self._grant_tokens, limits.grant)
        self._grant = Drafted(TokenTree.root_only(root), run=run)

    async def drafted(self) -> Drafted:
        """See ``Proposer.drafted``."""
        return self._grant

    def on_sent(self) -> None:
        """There is nothing to draft on."""

    def on_committed(self, committed: Committed) -> None:
        """Nothing to learn."""

    async def close(self) -> None:
        """Nothing to free."""
