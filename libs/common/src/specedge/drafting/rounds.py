"""What a round is to be, and what became of it: the values between whoever decides and whoever
drafts. Pure.
"""

from dataclasses import dataclass

from specedge.drafting.growth_rule import GrowthRule
from specedge.params import DraftPolicy


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What the next round is: a draft, or a grant to the verifier.

    policy  bounds of the draft; its depth and budget may be 0; None: hosted
    rule    when to stop within these bounds; None: use all of them
    run     tokens to grant; 0: not hosted
    """

    policy: DraftPolicy | None
    rule: GrowthRule | None = None
    run: int = 0

    @property
    def is_hosted(self) -> bool:
        """Whether the verifier is to generate alone."""
        return self.policy is None


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """A verdict on a drafted round, with the times it took.

    expected   sum of the values of the nodes that were tried
    num_tried, num_accepted   of the nodes sent
    draft_ms   from the moment the round could be drafted (the verdict before it) until it was
               sent: what proactive drafting hid is not in it
    round_trip_ms   from then until its verdict; None if unknown
    queue_ms, step_ms, step_rows   of ``round_trip_ms``: scheduler and verifier before the step, the
               step itself; rows of all sessions in it (0: unknown)
    gap_ms     from the verdict before it to its own, if its draft had been sent ahead: all that it
               took, and the other two say nothing. None: it was sent in its turn
    """

    expected: float
    num_tried: int
    num_accepted: int
    draft_ms: float
    round_trip_ms: float | None
    queue_ms: float = 0.0
    step_ms: float = 0.0
    step_rows: int = 0
    gap_ms: float | None = None

    @property
    def took_ms(self) -> float | None:
        """From the verdict before it to its own; None if unknown."""
        if self.gap_ms is not None:
            return self.gap_ms
        return None if self.round_trip_ms is None else self.draft_ms + self.round_trip_ms


@dataclass(frozen=True, slots=True)
class HostedOutcome:
    """A verdict under a grant.

    elapsed_ms  since the verdict before it of the same grant; None for the first of a grant
    num_tried   nodes that the verifier drafted itself and tried
    """

    num_tokens: int
    elapsed_ms: float | None
    num_tried: int = 0
    queue_ms: float = 0.0
    step_ms: float = 0.0
    step_rows: int = 0
