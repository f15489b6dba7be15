"""``python -m benchmarks scale``: what a scheduler costs a round, with hundreds of edges.

``--load scripted``: edges and verifiers by script, which say to a real scheduler over a real broker
what real ones would and do nothing else, so that one core drives it to thousands of rounds a
second. ``--load services``: the real edges and verifiers on emulated devices, at whatever rate
their core drives. The figures and their goals are in ``GOALS``; as JSON they go to stdout.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.figures import Goal, machine, say, write
from benchmarks.scale_stack import Outcome, run_scripted, run_services

ROUNDS: Final = "specedge_request_queue_time_seconds_count"
DECISIONS: Final = "specedge_decision_seconds"
GOALS: Final = {
    "rounds_per_s": Goal("rounds a second that the scheduler passed on", at_least=2000.0),
    "scheduler_us_per_round": Goal("CPU of its whole process for each", at_most=120.0),
    "decision_p99_ms": Goal("thread CPU of one turn of decisions", at_most=2.0),
    "grows_bytes_per_s": Goal("slope of its resident memory", at_most=4096.0),
}


def main(argv: Sequence[str]) -> None:
    """Measure, and print figures as JSON."""
    arguments = _parser().parse_args(argv)
    say(f"{arguments.edges} edges on {arguments.verifiers} verifiers, {arguments.seconds:g} s")
    run = run_scripted if arguments.load == "scripted" else run_services
    with tempfile.TemporaryDirectory(prefix="specedge-scale-") as run_dir:
        found = figures(asyncio.run(run(Path(run_dir), arguments)))
    for name, goal in GOALS.items():
        if name in found:
            verdict = goal.verdict(found[name])
            say(f"{goal.meaning}: {found[name]:,.4g} (goal {goal.text}) {verdict}")
    write(f"scale-{arguments.load}", found, ())
    print(json.dumps(found | machine(), indent=1))


def figures(outcome: Outcome) -> dict[str, float]:
    """See ``GOALS``; and where the time went. Shares are of one core."""
    seen, wall_s = outcome.scheduler, outcome.wall_s
    rounds = max(seen.value(ROUNDS), 1.0)
    found = {
        "rounds_per_s": seen.value(ROUNDS) / wall_s,
        "scheduler_us_per_round": 1e6 * outcome.cpu_s["scheduler"] / rounds,
        "decision_p50_ms": 1e3 * (seen.quantile(DECISIONS, 0.5) or 0.0),
        "decision_p99_ms": 1e3 * (seen.quantile(DECISIONS, 0.99) or 0.0),
        "decisions_us_per_round": 1e6 * seen.value(f"{DECISIONS}_sum") / rounds,
        "turns_per_s": seen.value(f"{DECISIONS}_count") / wall_s,
        "messages_per_round": seen.value("specedge_nats_messages_total") / rounds,
        "batches_per_round": seen.value("specedge_batches_total") / rounds,
        **{f"cpu_share_{name}": spent_s / wall_s for name, spent_s in outcome.cpu_s.items()},
        **{f"load_{name}": float(count) for name, count in outcome.load.items()},
    }
    if outcome.memory:
        found["grows_bytes_per_s"] = slope(outcome.memory)
    return {name: round(value, 3) for name, value in found.items()}


def slope(samples: Sequence[tuple[float, int]]) -> float:
    """Of (seconds, bytes), in bytes a second, by least squares; 0 of fewer than two."""
    if len(samples) < 2:
        return 0.0
    at_s, resident = np.array(samples, dtype=np.float64).T
    return float(np.polyfit(at_s - at_s[0], resident - resident[0], 1)[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--load", choices=("scripted", "services"), default="scripted")
    parser.add_argument("--edges", type=int, default=300)
    parser.add_argument("--verifiers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0, help="that are measured")
    parser.add_argument("--warm-up", type=float, default=8.0, help="seconds before")
    scripted = parser.add_argument_group("by script")
    scripted.add_argument(
        "--rounds-per-s", type=float, default=2500.0, help="if the scheduler took no time"
    )
    scripted.add_argument("--nodes", type=int, default=16, help="of each draft")
    scripted.add_argument("--session-rounds", type=int, default=50, help="then a new session")
    return parser
