"""One edge and one verifier in virtual time: real session machines, real bytes through the real
codec, the real ``TreeDrafter`` and controller; only devices and link are imitated. A generation of
minutes takes a second, and comes out the same every time.

Stands in for: the services' drivers, scheduler and broker (their times are in ``overhead_ms``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.traces import TraceText
from benchmarks.virtual_edge import VirtualEdge
from benchmarks.virtual_verifier import VirtualVerifier
from benchmarks.virtual_world import IDENTITY, Control, PairCosts, PairResult
from specedge.clock import Cancellable, ManualClock
from specedge.protocol import codec
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.effects import Answered, Started
from specedge.protocol.messages import SessionParams
from specedge.protocol.subjects import Up
from specedge.tree.calibration import Tally

PROMPT_LEN: Final = 16


@dataclass
class VirtualPair:
    """Make one per generation, and ``run`` it. A ``World``."""

    control: Control
    text: TraceText
    costs: PairCosts
    tally: Tally
    num_tokens: int
    is_proactive: bool = True
    seed: int = 0
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        prompt = self.text.tokens(np.arange(PROMPT_LEN, dtype=np.int64))
        params = SessionParams(
            model=IDENTITY.model,
            weights=IDENTITY.weights,
            tokenizer=IDENTITY.tokenizer,
            prompt=PROMPT_LEN,
            max_tokens=self.num_tokens,
        )
        self.result = PairResult()
        self._random = np.random.default_rng(self.seed)
        self._verifier = VirtualVerifier(self)
        self._edge = VirtualEdge(self, EdgeSession(params, prompt), prompt)

    def run(self) -> PairResult:
        """The whole generation."""
        self._edge.feed(Started())
        while not self._edge.has_ended:
            due_s = self.clock.next_due_s()
            assert due_s is not None, "nothing will ever happen"
            self.clock.advance(max(due_s - self.clock.now_s(), 0.0))
        return self.result

    def later(self, delay_s: float, call: Callable[[], None]) -> Cancellable:
        """On the world's clock."""
        return self.clock.call_at(self.clock.now_s() + delay_s, call)

    def step_s(self, num_rows: int) -> float:
        """One step of the target, with its noise."""
        factor = np.exp(self.costs.noise * self._random.standard_normal())
        return float(self.costs.step(num_rows) * factor / 1e3)

    def send_up(self, kind: Up, payload: bytes) -> None:
        """Edge to verifier."""
        self._carry(lambda: self._verifier.on_bytes(kind, payload))

    def send_down(self, payload: bytes) -> None:
        """Verifier to edge."""
        self._carry(lambda: self._edge.feed(Answered(codec.decode_down(payload))))

    def _carry(self, deliver: Callable[[], None]) -> None:
        self.later((self.costs.round_trip_ms / 2 + self.costs.overhead_ms) / 1e3, deliver)
