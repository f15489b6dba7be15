"""What edge and verifier of a virtual pair share: who they are, what their devices and link take,
and the world that carries what they say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from benchmarks.traces import VOCAB_SIZE, TraceText
from specedge.clock import Cancellable, ManualClock
from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.subjects import Up
from specedge.tree.calibration import Tally

IDENTITY: Final = Identity(
    model="trace", weights="ab12", tokenizer="cd34", vocab_size=VOCAB_SIZE, max_context=1 << 20
)
LIMITS: Final = Limits(nodes=64, append=64, context=1 << 20, grant=256)
KEY: Final = SessionKey(EdgeId("U" + "A" * 55), SessionId("0" * 32))


class Control(Protocol):
    """What decides the rounds: a ``DraftController``, or a fixed setting."""

    def decide(self, max_nodes: int, max_grant: int) -> Decision: ...

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None: ...

    def observe_verdict(self, outcome: RoundOutcome) -> None: ...

    def observe_hosted(self, outcome: HostedOutcome) -> None: ...


@dataclass(frozen=True, slots=True)
class FixedSetting:
    """The same every round."""

    decision: Decision

    def decide(self, max_nodes: int, max_grant: int) -> Decision:
        """That."""
        return self.decision

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None:
        """Nothing to learn."""

    def observe_verdict(self, outcome: RoundOutcome) -> None:
        """Nothing to learn."""

    def observe_hosted(self, outcome: HostedOutcome) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True)
class PairCosts:
    """What the pair's devices and link take, in milliseconds.

    step         (rows) → a step of the target        noise  its relative standard deviation
    pass_, row   of the drafter                       overhead  services and broker, each way
    """

    step: Callable[[int], float]
    pass_ms: float
    row_ms: float
    round_trip_ms: float
    overhead_ms: float = 0.5
    noise: float = 0.03


@dataclass(slots=True)
class PairResult:
    """Of one generation; time starts with the first verdict, when both prompts are read."""

    num_tokens: int = 0
    num_hosted_tokens: int = 0
    num_drafted_rounds: int = 0
    num_sent: int = 0
    first_tokens: int = 0
    first_s: float | None = None
    last_s: float = 0.0

    @property
    def decode_s(self) -> float:
        """From the first verdict to the last."""
        return 0.0 if self.first_s is None else self.last_s - self.first_s


@dataclass(slots=True)
class DeviceClock:
    """The world's clock, as a device sees it that works within one event."""

    world: ManualClock
    spent_s: float = 0.0

    def now_s(self) -> float:
        """Of the world, and what was worked since the event began."""
        return self.world.now_s() + self.spent_s

    def sleep(self, seconds: float) -> None:
        """Work."""
        self.spent_s += seconds

    def take(self) -> float:
        """What was worked since this was last asked."""
        spent_s, self.spent_s = self.spent_s, 0.0
        return spent_s


class World(Protocol):
    """What edge and verifier see of the pair they are."""

    control: Control
    text: TraceText
    costs: PairCosts
    tally: Tally
    is_proactive: bool
    clock: ManualClock
    result: PairResult

    def later(self, delay_s: float, call: Callable[[], None]) -> Cancellable: ...

    def step_s(self, num_rows: int) -> float: ...

    def send_up(self, kind: Up, payload: bytes) -> None: ...

    def send_down(self, payload: bytes) -> None: ...
