"""One scenario in all the variations of its sweep, and what an operator asks of a pool. Pure."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from specedge.errors import InvalidRequest
from specedge_scheduler.sim.measures import Figures
from specedge_scheduler.sim.scenario import Scenario, read_scenario
from specedge_scheduler.sim.world import simulate

MOST_EDGES_PER_VERIFIER: Final = 512


@dataclass(frozen=True, slots=True)
class Run:
    """One variation: the fields that differ, and what came of it."""

    varied: dict[str, object]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many edges a pool takes so that the mean time per token keeps the objective.

    edges, figures            with the verifiers of the scenario
    more_edges, more_figures  with one verifier more
    """

    objective_ms: float
    verifiers: int
    edges: int
    figures: Figures | None
    more_edges: int
    more_figures: Figures | None


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


def run_all(fields: dict[str, object], done: Callable[[Run], None] = lambda _: None) -> list[Run]:
    """Simulate every variation; ``done`` hears of each as it ends."""
    runs = []
    for varied, scenario in variations(fields):
        run = Run(varied, simulate(scenario))
        done(run)
        runs.append(run)
    return runs


def find_capacity(scenario: Scenario, objective_ms: float) -> Capacity:
    """Search, with nobody refused: all edges are of the first kind that the scenario names."""
    edges, figures = _most_edges(scenario, objective_ms)
    first, *others = scenario.verifiers
    larger = first.model_copy(update={"count": first.count + 1})
    more = scenario.model_copy(update={"verifiers": (larger, *others)})
    more_edges, more_figures = _most_edges(more, objective_ms)
    count = sum(spec.count for spec in scenario.verifiers)
    return Capacity(objective_ms, count, edges, figures, more_edges, more_figures)


def _most_edges(scenario: Scenario, objective_ms: float) -> tuple[int, Figures | None]:
    num_verifiers = sum(spec.count for spec in scenario.verifiers)
    low, high = 0, num_verifiers
    best: Figures | None = None
    while high <= MOST_EDGES_PER_VERIFIER * num_verifiers:
        figures = _with_edges(scenario, high)
        if figures.ms_per_token_mean > objective_ms:
            break
        low, best, high = high, figures, 2 * high
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        figures = _with_edges(scenario, middle)
        if figures.ms_per_token_mean <= objective_ms:
            low, best = middle, figures
        else:
            high = middle
    return low, best


def _with_edges(scenario: Scenario, count: int) -> Figures:
    edges = scenario.edges[0].model_copy(update={"count": count})
    scheduler = scenario.scheduler.model_copy(update={"objective_ms": 0.0})
    slots = max(spec.slots for spec in scenario.verifiers) + count * edges.sessions
    verifiers = tuple(spec.model_copy(update={"slots": slots}) for spec in scenario.verifiers)
    changed = {"edges": (edges,), "scheduler": scheduler, "verifiers": verifiers}
    return simulate(scenario.model_copy(update=changed))


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
    if isinstance(inner, list) and rest[0].isdigit() and int(rest[0]) < len(inner):
        copy, index = list(inner), int(rest[0])
        if len(rest) == 1:
            copy[index] = value
            return {**fields, head: copy}
        if isinstance(copy[index], dict):
            copy[index] = _with(copy[index], rest[1:], value, name)
            return {**fields, head: copy}
    raise InvalidRequest(f"sweep.{name}: the scenario has no such field", field=f"sweep.{name}")
