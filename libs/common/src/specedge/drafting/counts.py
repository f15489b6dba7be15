"""What a session's drafting did, in numbers."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """Totals of a session, for metrics.

    passes         of rounds, on somebody's way    passes_ahead  while a draft was out
    passes_saved   levels that rounds found there when they began, so passes not run on the way
    nodes_drafted  put into working trees          nodes_sent    selected by ``finish``
    nodes_reused   alive after a verdict, so drafted before the round that could send them
    verdicts       of drafted rounds               hits          whose bonus was in the tree
    """

    passes: int = 0
    passes_ahead: int = 0
    passes_saved: int = 0
    nodes_drafted: int = 0
    nodes_sent: int = 0
    nodes_reused: int = 0
    verdicts: int = 0
    hits: int = 0

    def __add__(self, other: "DraftCounts") -> "DraftCounts":
        """Totals of two sessions together."""
        mine, theirs = asdict(self), asdict(other)
        return DraftCounts(**{name: mine[name] + theirs[name] for name in mine})
