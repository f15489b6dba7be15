"""Where a service's drafts come from: a drafter on the compute thread, or nobody (hosted grants).

All computing happens on the compute thread, so that the event loop never waits for it.
"""

from dataclasses import dataclass, field
from typing import Final

from specedge.clock import Clock
from specedge.drafting.controller import DraftController
from specedge.drafting.pace import DevicePace
from specedge.drafting.patience import Patience
from specedge.engine.ports import Drafter
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.service.compute import Compute
from specedge.service.spans import NO_SPANS, SpanRing
from specedge.tree.calibration import Tally
from specedge.tree.token_tree import IntArray
from specedge_edge.proactive import PassTime, TripTimes
from specedge_edge.proposer import HostedProposer, OnAhead, Proposer
from specedge_edge.round_control import FixedControl, RoundControl
from specedge_edge.session_drafter import SessionDrafter, Workshop
from specedge_edge.session_proposer import SessionProposer
from specedge_edge.standing import DrafterStanding

NO_DRAFTER: Final = "none"


@dataclass(frozen=True, slots=True, eq=False)
class DraftSource:
    """What makes proposers: a drafter (None: hosted), its thread, what its sessions learned
    together, and how much to draft. One per service.

    policy        the most that a round may draft
    grant_tokens  that the verifier may run ahead where nothing is drafted
    is_proactive  whether to draft on while a round is out
    is_sent_ahead whether what comes of that is sent before the verdict, where the cloud takes it
    spans, lane   where the device's work beside the rounds is recorded, and under which name
    is_paced      whether a round has as many passes as there is time for before it is wanted
    read_patience_s  how long a first round waits for a long prompt that the drafter reads, before
                  it is left to the verifier
    pace          what the sessions' controllers learned together; None: every round drafts all
                  that ``policy`` allows
    """

    drafter: Drafter | None
    compute: Compute
    policy: DraftPolicy
    grant_tokens: int
    clock: Clock
    is_proactive: bool = True
    is_paced: bool = False
    pace: DevicePace | None = None
    standing: DrafterStanding = field(default_factory=DrafterStanding)
    tally: Tally = field(default_factory=Tally)
    pass_time: PassTime = field(default_factory=PassTime)
    trips: TripTimes = field(default_factory=TripTimes)
    patience: Patience = field(default_factory=Patience)
    spans: SpanRing = NO_SPANS
    lane: str = ""
    is_sent_ahead: bool = False
    read_patience_s: float = 0.3

    @property
    def name(self) -> str:
        """For the handshake and reports."""
        return NO_DRAFTER if self.drafter is None else self.drafter.name

    @property
    def depth(self) -> int:
        """The longest path a draft may hold."""
        return 0 if self.drafter is None else self.policy.depth

    def open(
        self,
        prompt: IntArray,
        params: SamplingParams,
        stop: StopRule,
        on_ahead: OnAhead | None = None,
    ) -> Proposer:
        """A proposer for one generation. Computes nothing yet. ``on_ahead`` is called on the loop
        with what is to be sent before a verdict."""
        if self.drafter is None:
            return HostedProposer(self.grant_tokens)
        shop = Workshop(
            self.drafter, self.tally, self.pass_time, self.clock.now_s, self.spans, self.lane
        )
        session = SessionDrafter(shop, params, stop, len(prompt))
        return SessionProposer(self, self._control(), session, prompt, on_ahead)

    def _control(self) -> RoundControl:
        if self.pace is None:
            return FixedControl(self.policy)
        return DraftController(self.pace, self.policy, self.grant_tokens)
