"""A step of a verifier in virtual time: who has a part in it, how long it takes, and what is said
of it afterwards. Pure.

Planned by the service's own rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from specedge.ids import SessionKey
from specedge.profiles import DeviceProfile
from specedge.protocol.reports import StepReport
from specedge.protocol.step_plan import StepRoom, plan_step
from specedge.protocol.verifier_effects import WantStep


class StepPart(NamedTuple):
    """One session's: the first ``num_chain`` tokens of its chain, and its tree, if any.

    queue_ms  how long its round had waited; 0 for prefill
    """

    key: SessionKey
    want: WantStep
    num_chain: int
    queue_ms: float

    @property
    def is_round(self) -> bool:
        """Whether it ends with a verdict; else it is prefill."""
        return self.want.tree is not None

    @property
    def rows(self) -> int:
        """Of the forward pass."""
        nodes = 0 if self.want.tree is None else self.want.tree.num_drafted
        return self.num_chain + nodes


@dataclass(frozen=True, slots=True)
class Step:
    """Rounds first, then prefill."""

    parts: tuple[StepPart, ...] = ()

    @property
    def rows(self) -> int:
        """Of the whole forward pass."""
        return sum(part.rows for part in self.parts)

    @property
    def prefill_rows(self) -> int:
        """Of those that prefill."""
        return sum(part.rows for part in self.parts if not part.is_round)

    @property
    def context(self) -> int:
        """Tokens that its rows look back upon, trees apart."""
        return sum(part.want.start + part.num_chain for part in self.parts)

    def ms_on(self, device: DeviceProfile) -> float:
        """How long it takes there."""
        return device.step_ms(
            rows=sum(part.rows for part in self.parts if part.is_round),
            context_tokens=self.context,
            prefill_tokens=self.prefill_rows,
        )

    def report(self, seq: int, ms: float) -> StepReport:
        """What the scheduler is told of it."""
        return StepReport.model_construct(
            seq=seq,
            rows=self.rows,
            prefill=self.prefill_rows,
            context=self.context,
            sessions=len(self.parts),
            ms=ms,
            hosted=0,
            draft_ms=0.0,
            slack_ms=min((part.queue_ms for part in self.parts if part.is_round), default=0.0),
        )


@dataclass(slots=True)
class VerifierTally:
    """What a verifier did since the figures count: steps, seconds in them, and what was in them;
    ``gaps_s`` between two steps, where nothing ran."""

    num_steps: int = 0
    busy_s: float = 0.0
    num_rounds: int = 0
    num_rows: int = 0
    gaps_s: list[float] | None = None

    def note(self, step: Step, ms: float) -> None:
        """A step ended."""
        self.num_steps += 1
        self.busy_s += ms / 1000
        self.num_rounds += sum(part.is_round for part in step.parts)
        self.num_rows += step.rows


def form_step(
    wants: Mapping[SessionKey, WantStep],
    asked_s: Mapping[SessionKey, float],
    max_rows: int,
    now_s: float,
) -> Step:
    """The next step out of ``wants`` (in order of asking), as the service plans it. ``asked_s``:
    since when rounds wait."""
    parts = []
    for one in plan_step(wants, StepRoom(max_rows)):
        want = wants[one.key]
        since_s = now_s if want.tree is None else asked_s.get(one.key, now_s)
        parts.append(StepPart(one.key, want, one.num_chain, (now_s - since_s) * 1000))
    return Step(tuple(parts))
