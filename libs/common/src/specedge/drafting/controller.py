"""How much to draft, round by round, or whether to leave it to the verifier: from measurements.

One ``DraftController`` per session; a ``DevicePace`` holds what all sessions of a drafter learned
together. Pure and synchronous: no clock, no torch, no loop; times come in as values. One owner
thread for a pace and all its controllers; what crosses to the thread that drafts is frozen.
"""

from dataclasses import dataclass

from specedge.drafting.growth_rule import GrowthRule, PassRecord
from specedge.drafting.pace import DevicePace
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
    """

    expected: float
    num_tried: int
    num_accepted: int
    draft_ms: float
    round_trip_ms: float | None
    queue_ms: float = 0.0
    step_ms: float = 0.0
    step_rows: int = 0


@dataclass(frozen=True, slots=True)
class HostedOutcome:
    """A verdict under a grant.

    elapsed_ms  since the verdict before it of the same grant; None for the first of a grant
    """

    num_tokens: int
    elapsed_ms: float | None
    queue_ms: float = 0.0
    step_ms: float = 0.0
    step_rows: int = 0


class DraftController:
    """One session's pace. ``bounds`` is the most that the operator allows to be drafted."""

    def __init__(self, pace: DevicePace, bounds: DraftPolicy, grant_tokens: int) -> None:
        self._pace = pace
        self._bounds = bounds
        self._grant_tokens = grant_tokens

    def decide(self, max_nodes: int, max_grant: int) -> Decision:
        """The next round, within the session's limits (``max_grant`` 0: no grants)."""
        raise NotImplementedError

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None:
        """What the drafter's passes took and proposed, those of proactive drafting included."""
        raise NotImplementedError

    def observe_verdict(self, outcome: RoundOutcome) -> None:
        """A drafted round was answered."""
        raise NotImplementedError

    def observe_hosted(self, outcome: HostedOutcome) -> None:
        """A verdict came under a grant."""
        raise NotImplementedError
