"""One session of this verifier as the table holds it, and how long it may lie idle. Values only.

Changed by ``SessionTable``, and by the engine loop between two of its calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from specedge.clock import Cancellable
from specedge.ids import SessionKey
from specedge.params import SamplingParams
from specedge.protocol.messages import SessionParams
from specedge.protocol.verifier_effects import VerifierEffect, VerifierEvent, WantStep
from specedge.protocol.verifier_session import VerifierSession
from specedge.protocol.verifier_states import VerifierState
from specedge_verifier.hosted_drafting import DraftSeat
from specedge_verifier.slots import SlotLease

# How often a session lost its slot to others is counted by this name, ...
PARKED: Final = "parked"
# ... and by this one how often one was given up since its machine failed.
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """How long things may lie idle. Seconds.

    idle_s      without a word, and with nothing to do: the session is given up
    park_s      so long idle, a session's slot may go to another that needs one
    retry_ms    what a session is told when no slot can be had
    sweep_s     how often idle sessions are looked for
    """

    idle_s: float = 30.0
    park_s: float = 1.0
    retry_ms: int = 200
    sweep_s: float = 1.0


class MachineFailed(Exception):
    """A session's machine raised; its cause says what."""


@dataclass(slots=True, eq=False)
class Entry:
    """One session. ``want`` waits for a step, ``running`` is in the one that runs.

    seat     at the verifier's own drafter, while it is hosted and holds a slot
    asked_s  when the round at hand came; None once it is in a step, or answered
    counted_base  where the tokens end that were counted as generated
    is_broken  its machine failed: it is told nothing more, and goes once it is in no step
    """

    key: SessionKey
    machine: VerifierSession
    heard_s: float
    active_s: float
    lease: SlotLease | None = None
    seat: DraftSeat | None = None
    want: WantStep | None = None
    wanted_s: float = 0.0
    running: WantStep | None = None
    asked_s: float | None = None
    counted_base: int = 0
    is_broken: bool = False
    timer: Cancellable | None = None
    sampled: tuple[SessionParams, SamplingParams] | None = None

    def ask(self, event: VerifierEvent, now_s: float) -> Sequence[VerifierEffect]:
        """What its machine wants done upon ``event``. Raises MachineFailed."""
        try:
            return self.machine.on(event, now_s)
        except Exception as error:
            raise MachineFailed from error

    @property
    def is_idle(self) -> bool:
        """Nothing of it waits or runs."""
        return self.want is None and self.running is None

    @property
    def has_round_waiting(self) -> bool:
        """A round of it waits for a step or is in one; a prefill is no round."""
        return any(want is not None and want.tree is not None for want in (self.want, self.running))

    def may_park(self, idle_since_s: float) -> bool:
        """Whether its slot may go to another: it holds one, and did nothing since then."""
        return (
            self.lease is not None
            and self.is_idle
            and self.machine.state is VerifierState.READY
            and self.active_s <= idle_since_s
        )

    def sampling(self, params: SessionParams) -> SamplingParams:
        """``params.sampling()``, made once per context."""
        if self.sampled is None or self.sampled[0] is not params:
            self.sampled = params, params.sampling()
        return self.sampled[1]
