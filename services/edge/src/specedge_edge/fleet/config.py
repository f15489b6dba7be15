"""Settings of a fleet of emulated edges."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from specedge.engine.emulated import Agreement, LevelAgreement, read_agreement
from specedge.errors import InvalidRequest
from specedge.link.distant import WireProfile
from specedge.pairs import PAIRS, Pair
from specedge.params import DraftPolicy
from specedge.profiles import DeviceProfile
from specedge.service.settings import ServiceSettings


class FleetSettings(ServiceSettings):
    """A fleet: edges that differ by name only, and the load they make."""

    fleet: str = Field(
        default="fleet", pattern=r"^[a-z0-9-]{1,16}$", description="tells fleets' edges apart"
    )
    edges: int = Field(default=2, ge=1, le=400, description="edges in this process")
    pair: str = Field(default="14b", description=f"models and devices: {', '.join(PAIRS)}")
    agreement: str = Field(
        default="",
        description="how often a level is accepted, by depth with commas between, or the path of "
        "a recorded trace; the pair's if empty",
    )
    pass_ms: float | None = Field(
        default=None, ge=0, description="a pass of the edges' drafter; the pair's if not given"
    )
    mode: Literal["drafted", "adaptive", "hosted"] = Field(
        default="drafted",
        description="drafted: always the same trees; adaptive: as much as pays; hosted: nobody "
        "drafts here",
    )
    proactive: bool = Field(default=True, description="draft on while a draft is out")
    ahead: bool = Field(
        default=False, description="send what was drafted on before the verdict; needs proactive"
    )
    paced: bool = Field(
        default=True, description="draft as long as the verifier does not want the draft yet"
    )
    depth: int = Field(default=5, ge=0, le=64, description="levels of a tree at most")
    passes: int = Field(
        default=64,
        ge=0,
        description="passes between a verdict and the next draft, where nobody says how many",
    )
    budget: int = Field(default=32, ge=0, le=1024, description="nodes of a tree at most")
    beams: int = Field(default=8, ge=1, le=256, description="nodes expanded in one pass at most")
    branch: int = Field(default=8, ge=1, le=256, description="children tried of a node")
    grant_tokens: int = Field(default=64, ge=1, description="hosted: tokens of a grant")
    round_trip_ms: float = Field(default=0.0, ge=0, description="between edge and broker")
    jitter_ms: float = Field(default=0.0, ge=0, description="more, each way, up to so much")
    loss: float = Field(default=0.0, ge=0, le=1, description="share of messages lost, each way")
    sessions: int = Field(default=1, ge=1, description="closed loop: sessions at a time, per edge")
    arrivals_per_s: float = Field(
        default=0.0, ge=0, description="open loop: sessions a second, of all edges; 0: closed loop"
    )
    arrivals: Literal["poisson", "bursty"] = Field(
        default="poisson",
        description="open loop: poisson, or bursty: bursts at four times the mean rate",
    )
    arrivals_file: Path | None = Field(
        default=None, description="open loop: when sessions come, in seconds, one a line"
    )
    prompt_tokens: int = Field(default=16, ge=1, description="of each session")
    tokens: int = Field(default=256, ge=1, description="generated in each session")
    warm_up_s: float = Field(default=3.0, ge=0, description="not measured")
    measure_s: float = Field(default=20.0, gt=0, description="measured")
    waits: bool = Field(
        default=False,
        description="begin when a line comes on stdin, with other fleets; end if it ends without",
    )
    seed: int = Field(default=0, ge=0, description="of arrivals, prompts and delays")

    @property
    def policy(self) -> DraftPolicy:
        """How much to draft in a round."""
        return DraftPolicy(
            self.depth, self.budget, self.beams, self.branch, floor=0.0, passes=self.passes
        )

    @property
    def wire(self) -> WireProfile:
        """Each way between an edge and the broker."""
        return WireProfile(
            latency_s=self.round_trip_ms / 2e3, jitter_s=self.jitter_ms / 1e3, loss=self.loss
        )

    def known_pair(self) -> Pair:
        """Raises InvalidRequest for a name that nobody knows."""
        if self.pair not in PAIRS:
            known = ", ".join(PAIRS)
            raise InvalidRequest(f"pair: {self.pair!r} is none of {known}", field="pair")
        return PAIRS[self.pair]

    @property
    def drafter_profile(self) -> DeviceProfile:
        """What a pass costs on each edge."""
        profile = self.known_pair().edge_drafter
        if self.pass_ms is None:
            return profile
        return DeviceProfile("settings", "this fleet's settings", draft_pass_ms=self.pass_ms)

    def known_arrivals(self) -> list[float] | None:
        """The moments in ``arrivals_file``; None: there is no such file. Raises InvalidRequest for
        one that cannot be read."""
        if self.arrivals_file is None:
            return None
        try:
            return [float(line) for line in self.arrivals_file.read_text().split()]
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"arrivals_file: {error}", field="arrivals_file") from error

    def known_agreement(self) -> Agreement:
        """Raises InvalidRequest for what is none."""
        if self.agreement:
            return read_agreement(self.agreement)
        return LevelAgreement([self.known_pair().acceptance])
