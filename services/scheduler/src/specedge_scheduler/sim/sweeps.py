"""One scenario in all the variations of its sweep, and what an operator asks of a pool. Pure."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from specedge.errors import InvalidRequest
from specedge_scheduler.sim.measures import Figures
from specedge_scheduler.sim.scenario import Scenario, read_scenario
from specedge_scheduler.sim.waiting import NOBODY, Watcher
from specedge_scheduler.sim.world import simulate

MOST_EDGES_PER_VERIFIER: Final = 512
PLACES_FOR_ALL: Final = 1_000_000_000  # sessions that come by themselves may be any number


@dataclass(frozen=True, slots=True)
class Run:
    """One variation: the fields that differ, and what came of it."""

    varied: dict[str, object]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many edges a pool takes so that the mean time per token keeps the objective.

    here     with the verifiers of the scenario
    more     with one verifier more
    assumed  in which the searched pool differs from the scenario, in sentences
    """

    objective_ms: float
    verifiers: int
    here: "Most"
    more: "Most"
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Most:
    """So many edges keep the objective; ``figures`` are theirs, None where not even one does.
    ``is_least``: the search ended there, and none was too many yet."""

    edges: int
    figures: Figures | None
    is_least: bool = False


def variations(fields: dict[str, object]) -> Iterator[tuple[dict[str, object], Scenario]]:
    """What differs, and the scenario, for each combination of the sweep's values. Raises
    InvalidRequest, naming the field."""
    sweep = read_scenario(fields).sweep
    names = list(sweep)
    for values in itertools.product(*(sweep[name] for name in names)):
        varied = dict(zip(names, values, strict=True))
        changed = {**fields, "sweep": {}}
        for name, value in varied.items():
            changed = _with(changed, name.split("."), value, name)
        yield varied, read_scenario(changed)


def run_all(fields: dict[str, object], watcher: Watcher = NOBODY) -> list[Run]:
    """Simulate every variation. Raises InvalidRequest before the first where one of them is no
    scenario."""
    runs, found = [], list(variations(fields))
    for number, (varied, scenario) in enumerate(found, start=1):
        watcher.begins(f"simulation {number} of {len(found)}")
        runs.append(Run(varied, simulate(scenario, watcher)))
    return runs


def find_capacity(scenario: Scenario, objective_ms: float, watcher: Watcher = NOBODY) -> Capacity:
    """Search, with nobody refused: all edges are of the first kind that the scenario names, and
    verifiers have a place for each. The sweep is not looked at."""
    here = _most_edges(scenario, objective_ms, watcher)
    first, *others = scenario.verifiers
    larger = first.model_copy(update={"count": first.count + 1})
    more = scenario.model_copy(update={"verifiers": (larger, *others)})
    count = sum(spec.count for spec in scenario.verifiers)
    found = _most_edges(more, objective_ms, watcher)
    return Capacity(objective_ms, count, here, found, tuple(_assumptions(scenario)))


def _assumptions(scenario: Scenario) -> Iterator[str]:
    """What ``_with_edges`` makes of the scenario."""
    yield "verifiers have a place for every session, and nobody is refused"
    first, *others = scenario.edges
    if others:
        left_out = ", ".join(repr(edges.name) for edges in others)
        yield f"all edges are of the kind {first.name!r}, without {left_out}"
    if scenario.sweep:
        yield f"the sweep over {', '.join(scenario.sweep)} is left out"


def _most_edges(scenario: Scenario, objective_ms: float, watcher: Watcher) -> Most:
    num_verifiers = sum(spec.count for spec in scenario.verifiers)

    def simulated(count: int) -> Figures:
        watcher.begins(f"{count} edges on {num_verifiers} verifiers")
        return _with_edges(scenario, count, watcher)

    return most_edges(simulated, num_verifiers, objective_ms)


def most_edges(
    simulated: Callable[[int], Figures], num_verifiers: int, objective_ms: float
) -> Most:
    """By doubling, then by halving what is in between: to a fiftieth, and to a tenth of what one
    verifier takes, since what one more of them adds is told."""
    low, high = 0, num_verifiers
    best: Figures | None = None
    while high <= MOST_EDGES_PER_VERIFIER * num_verifiers:
        figures = simulated(high)
        if not _keeps(figures, objective_ms):
            break
        low, best, high = high, figures, 2 * high
    else:
        return Most(low, best, is_least=True)
    while high - low > max(1, low // max(50, 10 * num_verifiers)):
        middle = (low + high) // 2
        figures = simulated(middle)
        if _keeps(figures, objective_ms):
            low, best = middle, figures
        else:
            high = middle
    return Most(low, best)


def _keeps(figures: Figures, objective_ms: float) -> bool:
    """Whether there was a pace at all, and quick enough: where no session got past its first round,
    the mean is 0."""
    return 0.0 < figures.ms_per_token_mean <= objective_ms


def _with_edges(scenario: Scenario, count: int, watcher: Watcher) -> Figures:
    edges = scenario.edges[0].model_copy(update={"count": count})
    open_to_all = {"objective_ms": 0.0, "sessions_per_edge": PLACES_FOR_ALL}
    scheduler = scenario.scheduler.model_copy(update=open_to_all)
    places = {"slots": PLACES_FOR_ALL}
    verifiers = tuple(spec.model_copy(update=places) for spec in scenario.verifiers)
    changed = {"edges": (edges,), "scheduler": scheduler, "verifiers": verifiers}
    return simulate(scenario.model_copy(update=changed), watcher)


def _with(
    fields: dict[str, object], path: list[str], value: object, name: str
) -> dict[str, object]:
    """A copy in which the field at ``path`` has that value."""
    head, *rest = path
    if not rest:
        return {**fields, head: value}
    inner = fields.get(head, {})
    if isinstance(inner, dict):
        return {**fields, head: _with(inner, rest, value, name)}
    if isinstance(inner, list) and rest[0].isdecimal() and int(rest[0]) < len(inner):
        copy, index = list(inner), int(rest[0])
        if len(rest) == 1:
            copy[index] = value
            return {**fields, head: copy}
        if isinstance(copy[index], dict):
            copy[index] = _with(copy[index], rest[1:], value, name)
            return {**fields, head: copy}
    raise InvalidRequest(f"sweep.{name}: the scenario has no such field", field=f"sweep.{name}")
