"""What a scenario's fields may not say together, each being right by itself.

Better refused than passed over in silence: who writes a field expects it to matter.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from specedge.errors import InvalidRequest

if TYPE_CHECKING:  # it asks for these
    from specedge_scheduler.sim.scenario import EdgeSpec, FailureSpec, LoadSpec, Scenario

# What a load of each kind is told.
FIELDS_OF: Final = {
    "closed": {"think_s"},
    "poisson": {"per_s"},
    "bursty": {"per_s", "period_s", "burst_share"},
}
# Of edges: sessions that come by themselves come when they do, however many run.
CLOSED_ONLY: Final = ("sessions", "starts_s")

Complaint = tuple[str, str]


def refuse_contradictions(scenario: "Scenario") -> None:
    """Raises InvalidRequest, naming the field of the first."""
    for field, said in _complaints(scenario):
        raise InvalidRequest(f"{field}: {said}", field=field)


def _complaints(scenario: "Scenario") -> Iterator[Complaint]:
    if scenario.warmup_s >= scenario.duration_s:
        yield "warmup_s", "must be less than duration_s"
    names: set[str] = set()
    for index, edges in enumerate(scenario.edges):
        place = f"edges.{index}"
        if edges.name in names:
            yield f"{place}.name", f"edges of another kind are called {edges.name!r} already"
        names.add(edges.name)
        if edges.depth_range.min > edges.depth_range.max:
            yield f"{place}.depth", "min must not be above max"
        if 0 < edges.nodes < edges.depth_range.max:
            yield f"{place}.nodes", f"{edges.nodes} are fewer than the levels of a draft"
        if edges.leaves_s is not None and edges.leaves_s >= scenario.duration_s:
            yield f"{place}.leaves_s", "comes when the scenario has ended"
        yield from _of_load(place, edges, edges.load)
    yield from _of_failures(scenario)


def _of_load(place: str, edges: "EdgeSpec", load: "LoadSpec") -> Iterator[Complaint]:
    for field in sorted(load.model_fields_set - {"kind"} - FIELDS_OF[load.kind]):
        kinds = " or ".join(kind for kind, fields in FIELDS_OF.items() if field in fields)
        yield f"{place}.load.{field}", f"is for a load of kind {kinds}, and this one is {load.kind}"
    for field in CLOSED_ONLY:
        if load.kind != "closed" and field in edges.model_fields_set:
            yield f"{place}.{field}", f"is for a load of kind closed, and this one is {load.kind}"


def _of_failures(scenario: "Scenario") -> Iterator[Complaint]:
    num_verifiers = sum(spec.count for spec in scenario.verifiers)
    for index, failure in enumerate(scenario.failures):
        if failure.verifier >= num_verifiers:
            yield f"failures.{index}.verifier", f"there are only {num_verifiers} verifiers"
        if failure.at_s >= scenario.duration_s:
            yield f"failures.{index}.at_s", "comes when the scenario has ended"
    away: dict[int, FailureSpec] = {}
    for index, failure in sorted(enumerate(scenario.failures), key=lambda one: one[1].at_s):
        before = away.get(failure.verifier)
        if before is not None and not _is_back(before, failure.at_s):
            yield f"failures.{index}.at_s", f"verifier {failure.verifier} is away already"
        away[failure.verifier] = failure


def _is_back(failure: "FailureSpec", at_s: float) -> bool:
    return failure.for_s is not None and failure.at_s + failure.for_s < at_s
