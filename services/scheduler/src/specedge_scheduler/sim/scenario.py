"""What a simulation is told, as people write it in YAML: every field checked, errors name it.

Knows the fields and nothing of how they are acted out. Times in the unit that the name ends with.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from specedge.errors import InvalidRequest
from specedge.profiles import DEVICES, LINKS, DeviceProfile
from specedge_scheduler.policy.types import PolicyName, SchedulerLimits
from specedge_scheduler.sim.contradictions import refuse_contradictions
from specedge_scheduler.sim.wrong_fields import refusal_of

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

INLINE_SOURCE = "the scenario file"

# What the services' own work adds on average, in milliseconds: from spans of the real services
# under `python -m benchmarks against`, on two cores. See ADR 32.
DRAFT_MS = 1.2  # from a draft's end to its arrival at the scheduler, beside the link's time
CLUSTER_MS = 0.5  # from scheduler to verifier, or back, until the other one acts on it
STEP_GAP_MS = 0.5  # between two steps, where work waits
ANSWER_MS = 2.5  # from a step's end until its verdicts are out, beside the next step


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceSpec(_Part):
    """A device of one's own, beside those that ``specedge.profiles`` names."""

    fixed_ms: NotNegative = 0.0
    row_ms: NotNegative = 0.0
    context_token_ms: NotNegative = 0.0
    prefill_token_ms: NotNegative = 0.0
    usd_per_hour: NotNegative = 0.0


class LinkSpec(_Part):
    """What an edge's messages meet. ``jitter_ms`` is the standard deviation of one way."""

    round_trip_ms: NotNegative = 0.0
    jitter_ms: NotNegative = 0.0
    loss: Share = 0.0


class VerifierSpec(_Part):
    """Verifiers that are alike.

    device      name of a profile, or a device of one's own
    slots       sessions that it can hold
    step_rows   rows of one step
    overhead_ms  host's own time between two steps
    answer_ms   from a step's end until its verdicts are out: the next step begins first
                and their report follows them
    """

    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    device: str | DeviceSpec = Field(default_factory=DeviceSpec)
    slots: Annotated[int, Field(ge=1)] = 64
    step_rows: Annotated[int, Field(ge=2)] = 1024
    overhead_ms: NotNegative = STEP_GAP_MS
    answer_ms: NotNegative = ANSWER_MS

    @field_validator("device")
    @classmethod
    def _is_known(cls, device: str | DeviceSpec) -> str | DeviceSpec:
        if isinstance(device, str) and device not in DEVICES:
            raise ValueError(
                f"no profile is called {device!r}; known: {', '.join(sorted(DEVICES))}"
            )
        return device

    @property
    def profile(self) -> DeviceProfile:
        """What its steps cost."""
        if isinstance(self.device, str):
            return DEVICES[self.device]
        return DeviceProfile("own", INLINE_SOURCE, **self.device.model_dump())


class DepthRange(_Part):
    """Levels drafted: ``min`` always, more while the next step is not near, at most ``max``."""

    min: Annotated[int, Field(ge=0, le=64)] = 3
    max: Annotated[int, Field(ge=0, le=64)] = 10


class ProactiveSpec(_Part):
    """Drafting on while a draft is out.

    hit  share of verdicts that were prepared. None: as the levels have it, which is how emulated
         devices have it: when the whole draft was right, and the level after it was, too
    """

    hit: Share | None = None


class LoadSpec(_Part):
    """When an edge's sessions begin.

    closed   one after another, ``think_s`` apart
    poisson  ``per_s`` of each edge on average, whatever runs
    bursty   the same average, but in bursts: for a ``burst_share`` of every ``period_s`` all of it
    """

    kind: Literal["closed", "poisson", "bursty"] = "closed"
    think_s: NotNegative = 0.0
    per_s: Positive = 1.0
    period_s: Positive = 2.0
    burst_share: Annotated[float, Field(gt=0, le=1)] = 0.25


class SessionSpec(_Part):
    """What each session is: its prompt, and how long its answer."""

    prompt_tokens: Annotated[int, Field(ge=1, le=8192)] = 64
    output_tokens: Annotated[int, Field(ge=1, le=100_000)] = 256


class EdgeSpec(_Part):
    """Edges that are alike.

    name             of these alone, since figures are told by it
    sessions         that each runs side by side, on its one device
    draft_pass_ms    one level of its draft
    draft_ms         to send a draft: host, broker, scheduler; the link's time comes on top
    depth            levels: a number, or a range from which it takes what time allows
    nodes            of each draft of all its levels, fewer where there are fewer; 0: one a level
    acceptance       chance of each level, given the one above; the last one goes on
    starts_s         its first session begins somewhere in the first ``starts_s``
    leaves_s         it falls silent then, without a word; None: it stays
    usd_per_hour     what its device costs; 0: nobody charges for it
    """

    name: str = "edges"
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    sessions: Annotated[int, Field(ge=1, le=1024)] = 1
    draft_pass_ms: NotNegative = 10.0
    draft_ms: NotNegative = DRAFT_MS
    depth: Annotated[int, Field(ge=0, le=64)] | DepthRange = 5
    nodes: Annotated[int, Field(ge=0, le=1023)] = 0
    acceptance: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.75,)
    proactive: ProactiveSpec | None = None
    link: str | LinkSpec = Field(default_factory=LinkSpec)
    load: LoadSpec = Field(default_factory=LoadSpec)
    session: SessionSpec = Field(default_factory=SessionSpec)
    starts_s: NotNegative = 0.2
    leaves_s: NotNegative | None = None
    usd_per_hour: NotNegative = 0.35

    @field_validator("link")
    @classmethod
    def _is_known(cls, link: str | LinkSpec) -> str | LinkSpec:
        if isinstance(link, str) and link not in LINKS:
            raise ValueError(f"no link is called {link!r}; known: {', '.join(sorted(LINKS))}")
        return link

    @property
    def link_spec(self) -> LinkSpec:
        """The link as figures."""
        if isinstance(self.link, LinkSpec):
            return self.link
        known = LINKS[self.link]
        return LinkSpec(
            round_trip_ms=known.round_trip_ms, jitter_ms=known.jitter_ms, loss=known.loss
        )

    @property
    def depth_range(self) -> DepthRange:
        """The depth as a range."""
        if isinstance(self.depth, DepthRange):
            return self.depth
        return DepthRange(min=self.depth, max=self.depth)


class FailureSpec(_Part):
    """A verifier that dies at ``at_s``, and is back, empty, ``for_s`` later (None: never).
    Verifiers are numbered from 0 in the order of the file."""

    verifier: Annotated[int, Field(ge=0)]
    at_s: NotNegative
    for_s: Positive | None = None


class SchedulerSpec(_Part):
    """The scheduler's own settings; see ``SchedulerLimits``.

    cluster_ms  one way between scheduler and verifiers
    """

    policy: PolicyName = "jit"
    batch_rows: Annotated[int, Field(ge=2)] = SchedulerLimits.max_batch_nodes
    batch_sessions: Annotated[int, Field(ge=0)] = SchedulerLimits.max_batch_sessions
    objective_ms: NotNegative = SchedulerLimits.objective_ms
    sessions_per_edge: Annotated[int, Field(ge=1)] = SchedulerLimits.sessions_per_edge
    cluster_ms: NotNegative = CLUSTER_MS

    def limits(self) -> SchedulerLimits:
        """As the policy takes them."""
        return SchedulerLimits(
            max_batch_nodes=self.batch_rows,
            max_batch_sessions=self.batch_sessions,
            sessions_per_edge=self.sessions_per_edge,
            policy=self.policy,
            objective_ms=self.objective_ms,
        )


class Scenario(_Part):
    """A world, for how long, and how it is varied.

    warmup_s  at the start, left out of every figure
    sweep     dotted field → values to try, all combinations: ``edges.0.count: [4, 8, 16]``
    """

    duration_s: Positive = 10.0
    warmup_s: NotNegative = 2.0
    seed: Annotated[int, Field(ge=0)] = 1
    scheduler: SchedulerSpec = Field(default_factory=SchedulerSpec)
    verifiers: Annotated[tuple[VerifierSpec, ...], Field(min_length=1)] = (VerifierSpec(),)
    edges: Annotated[tuple[EdgeSpec, ...], Field(min_length=1)]
    failures: tuple[FailureSpec, ...] = ()
    sweep: Mapping[str, Annotated[tuple[object, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )

    @property
    def num_edges(self) -> int:
        """Of all kinds."""
        return sum(spec.count for spec in self.edges)


def read_scenario(fields: object) -> Scenario:
    """The scenario out of what a YAML file holds. Raises InvalidRequest, naming the field."""
    if not isinstance(fields, dict):
        raise InvalidRequest("a scenario is a mapping of fields", field="scenario")
    try:
        scenario = Scenario.model_validate(fields)
    except ValidationError as error:
        raise refusal_of(error) from None
    refuse_contradictions(scenario)
    return scenario
