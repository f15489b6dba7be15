"""A simulator's scenario as processes: what can be imitated is, what cannot is refused."""

import pytest

from benchmarks.emulate import flags_of
from specedge.errors import InvalidRequest
from specedge.profiles import A100_40_QWEN3_14B_PAPER
from specedge_scheduler.sim.scenario import Scenario, read_scenario

EDGES = {
    "count": 20,
    "draft_pass_ms": 11,
    "depth": {"min": 4, "max": 9},
    "nodes": 32,
    "acceptance": [0.8, 0.7],
    "link": {"round_trip_ms": 14.0, "jitter_ms": 1.0},
}
SCHEDULER = {"policy": "greedy", "batch_rows": 132, "batch_sessions": 4, "objective_ms": 60}


def scenario(**changed: object) -> dict[str, object]:
    return {
        "duration_s": 12,
        "warmup_s": 2,
        "scheduler": SCHEDULER,
        "verifiers": [{"device": "a100-40/qwen3-14b/paper", "count": 2}],
        "edges": [EDGES],
    } | changed


def read(**changed: object) -> Scenario:
    return read_scenario(scenario(**changed))


def value(flags: list[str], name: str) -> str:
    return flags[flags.index(name) + 1]


def test_a_scenario_becomes_the_same_world_of_processes() -> None:
    flags = flags_of(read_scenario(scenario()))

    first, second = (list(fleet) for fleet in flags.fleets)
    assert flags.num_verifiers == 2
    assert value(list(flags.scheduler), "--policy") == "greedy"
    assert value(list(flags.scheduler), "--max-batch-sessions") == "4"
    assert value(list(flags.scheduler), "--objective-ms") == "60"
    assert float(value(list(flags.verifier), "--emulated-step-ms")) == pytest.approx(
        A100_40_QWEN3_14B_PAPER.fixed_ms, rel=1e-4
    )
    assert int(value(first, "--edges")) + int(value(second, "--edges")) == 20
    assert value(first, "--fleet") != value(second, "--fleet")
    assert value(first, "--agreement") == "0.8,0.7"
    assert (value(first, "--depth"), value(first, "--passes")) == ("9", "4")
    assert (value(first, "--budget"), value(first, "--paced")) == ("32", "true")
    assert value(first, "--measure-s") == "10"


def test_every_fleet_draws_its_own_luck_and_the_scenarios_seed_is_another() -> None:
    def seeds(seed: int) -> list[str]:
        return [value(list(fleet), "--seed") for fleet in flags_of(read(seed=seed)).fleets]

    assert len(set(seeds(1) + seeds(2))) == 4
    assert seeds(1) == seeds(1)


def test_the_mean_distance_is_that_of_the_scenario() -> None:
    fleet = list(flags_of(read_scenario(scenario())).fleets[0])

    least_ms, width_ms = float(value(fleet, "--round-trip-ms")), float(value(fleet, "--jitter-ms"))
    # Each way half of the least round trip, and evenly up to ``width_ms`` more.
    assert least_ms + 2 * width_ms / 2 == pytest.approx(14.0, rel=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {"failures": [{"verifier": 0, "at_s": 1.0}]},
        {"sweep": {"edges.0.count": [1, 2]}},
        {"verifiers": [{"device": "instant"}, {"device": "instant"}]},
        {"edges": [EDGES | {"leaves_s": 1.0}]},
        {"edges": [EDGES | {"load": {"kind": "bursty"}}]},
        {"edges": [EDGES | {"proactive": {"hit": 0.45}}]},
        {"verifiers": [{"device": {"fixed_ms": 20.0, "context_token_ms": 0.01}}]},
        {"edges": [EDGES | {"depth": 0}]},
        {"edges": [EDGES | {"session": {"prompt_tokens": 8000, "output_tokens": 9000}}]},
    ],
)
def test_what_cannot_be_imitated_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        flags_of(read_scenario(scenario(**changed)))
