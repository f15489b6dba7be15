"""What decides how much each round of a session drafts, or that the verifier generates alone."""

from dataclasses import replace
from typing import Protocol

from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.params import DraftPolicy


class RoundControl(Protocol):
    """Decides how much each round drafts. ``DraftController`` is one; ``FixedControl`` another."""

    def decide(self, max_nodes: int, max_grant: int) -> Decision:
        """The next round, within the session's limits."""
        ...

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None:
        """What the drafter's passes took and proposed."""
        ...

    def observe_verdict(self, outcome: RoundOutcome) -> None:
        """A drafted round was answered."""
        ...

    def observe_hosted(self, outcome: HostedOutcome) -> None:
        """A verdict came under a grant."""
        ...


class FixedControl:
    """The same policy every round."""

    def __init__(self, policy: DraftPolicy) -> None:
        self._policy = policy

    def decide(self, max_nodes: int, max_grant: int) -> Decision:
        """See ``RoundControl``."""
        return Decision(replace(self._policy, budget=min(self._policy.budget, max_nodes)))

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None:
        """Nothing to learn."""

    def observe_verdict(self, outcome: RoundOutcome) -> None:
        """Nothing to learn."""

    def observe_hosted(self, outcome: HostedOutcome) -> None:
        """Nothing to learn."""
