"""``python -m benchmarks scale``: what a scheduler costs, with hundreds of emulated edges.

The real services over a real broker; only devices are emulated. Prints the scheduler's own CPU for
each round, what a turn of decisions takes of its thread (p99), and how much it grew meanwhile.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.emulate import flags_of
from benchmarks.figures import say
from benchmarks.paper_stack import CellOutcome, run_cell
from specedge_scheduler.sim.scenario import Scenario, read_scenario

FLEETS: Final = 3
ROUNDS: Final = "specedge_request_queue_time_seconds_count"
DECISIONS: Final = "specedge_decision_seconds"
MEMORY: Final = "process_resident_memory_bytes"


def main(argv: Sequence[str]) -> None:
    """Measure, and print figures as JSON."""
    arguments = _parser().parse_args(argv)
    scenario = _scenario(arguments)
    say(f"{arguments.edges} edges on {arguments.verifiers} verifiers, {arguments.seconds:g} s")
    flags = flags_of(scenario, -(-arguments.edges // FLEETS))
    with tempfile.TemporaryDirectory(prefix="specedge-scale-") as run_dir:
        outcome = asyncio.run(run_cell(Path(run_dir), flags))
    print(json.dumps(figures(outcome), indent=1))


def figures(outcome: CellOutcome) -> dict[str, object]:
    """What the scheduler did and took while everything ran."""
    rounds = outcome.scheduler.value(ROUNDS)
    busy_s = outcome.cpu_share["scheduler"] * outcome.wall_s
    p99_s = outcome.scheduler.quantile(DECISIONS, 0.99)
    return {
        "rounds_per_s": round(rounds / outcome.wall_s, 1),
        "scheduler_us_per_round": round(1e6 * busy_s / max(rounds, 1.0), 1),
        "turns_per_s": round(outcome.scheduler.value(f"{DECISIONS}_count") / outcome.wall_s, 1),
        "decision_mean_ms": round(
            1e3
            * outcome.scheduler.value(f"{DECISIONS}_sum")
            / max(outcome.scheduler.value(f"{DECISIONS}_count"), 1.0),
            3,
        ),
        "decision_p99_ms": None if p99_s is None else round(1e3 * p99_s, 3),
        "scheduler_grew_bytes": outcome.scheduler.value(MEMORY),
        "cpu_share": {name: round(share, 3) for name, share in outcome.cpu_share.items()},
    }


def _scenario(arguments: argparse.Namespace) -> Scenario:
    edges = {
        "count": arguments.edges,
        "draft_pass_ms": 4.0,
        "depth": 4,
        "acceptance": [0.78],
        "link": {"round_trip_ms": 14.07},
        "session": {"prompt_tokens": 32, "output_tokens": 4000},
    }
    verifiers = {"count": arguments.verifiers, "slots": 128, "device": {"fixed_ms": 40.0}}
    return read_scenario(
        {
            "duration_s": arguments.seconds + 5.0,
            "warmup_s": 5.0,
            "verifiers": [verifiers],
            "edges": [edges],
        }
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--edges", type=int, default=300)
    parser.add_argument("--verifiers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0, help="that are measured")
    return parser
