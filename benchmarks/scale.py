"""``python -m benchmarks scale``: what a scheduler costs a round, with hundreds of edges.

``--load scripted``: edges and verifiers by script, which say to a real scheduler over a real broker
what real ones would and do nothing else, so that one core drives it to thousands of rounds a
second: on cores that do not sleep in between, whose time is the program's alone; then for a moment
with as many rounds as the load's core drives, where more of them arrive together; and on cores as
they are, which a virtual machine gives away whenever nothing is to do. ``--load services``: the
real edges and verifiers on emulated devices, at whatever rate their core drives. The figures and
their goals are in ``GOALS``; as JSON they go to stdout.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from benchmarks.awake import can_keep_awake
from benchmarks.figures import Goal, machine, say, write
from benchmarks.scale_stack import Outcome, run_scripted, run_services

ROUNDS: Final = "specedge_request_queue_time_seconds_count"
DECISIONS: Final = "specedge_decision_seconds"
WINDOW_S: Final = 4.0
MOMENT_S: Final = 10.0  # that the fleet runs in other ways, and as long before
OTHER_WAYS: Final = (
    *("rounds_per_s", "turns_per_s"),
    *("scheduler_us_per_round", "decisions_us_per_round", "decision_p99_ms"),
)
GOALS: Final = {
    "rounds_per_s": Goal("rounds a second that the scheduler passed on", at_least=2000.0),
    "scheduler_us_per_round": Goal("CPU of its whole process for each", at_most=120.0),
    "decision_p99_ms": Goal("thread CPU of one turn of decisions", at_most=2.0),
    "grows_bytes_per_s": Goal("slope of its resident memory", at_most=4096.0),
    "driven_scheduler_us_per_round": Goal(
        "CPU for each with as many as the load's core drives", at_most=120.0
    ),
}


def main(argv: Sequence[str]) -> None:
    """Measure, and print figures as JSON."""
    arguments = _parser().parse_args(argv)
    say(f"{arguments.edges} edges on {arguments.verifiers} verifiers, {arguments.seconds:g} s")
    measure = _scripted if arguments.load == "scripted" else _services
    with tempfile.TemporaryDirectory(prefix="specedge-scale-") as run_dir:
        found = asyncio.run(measure(Path(run_dir), arguments))
    if "quietest_us_per_round" in found:
        quietest, usual = found["quietest_us_per_round"], found["median_us_per_round"]
        say(f"in windows of {WINDOW_S:g} s: {usual:.1f} in the middle one, {quietest:.1f} at least")
    for name, goal in GOALS.items():
        if name in found:
            verdict = goal.verdict(found[name])
            say(f"{goal.meaning}: {found[name]:,.4g} (goal {goal.text}) {verdict}")
    write(f"scale-{arguments.load}", found, ())
    print(json.dumps(found | machine(), indent=1))


async def _services(run_dir: Path, arguments: argparse.Namespace) -> dict[str, float]:
    return figures(await run_services(run_dir, arguments))


async def _scripted(run_dir: Path, arguments: argparse.Namespace) -> dict[str, float]:
    found = figures(await run_scripted(run_dir, arguments))
    moment = {name: min(getattr(arguments, name), MOMENT_S) for name in ("warm_up", "seconds")}
    shorter = argparse.Namespace(**{**vars(arguments), **moment})
    if arguments.most_rounds_per_s > arguments.rounds_per_s:
        say("the same for a moment, with as many rounds as the load's core drives")
        most = {"rounds_per_s": arguments.most_rounds_per_s}
        driven = figures(
            await run_scripted(run_dir, argparse.Namespace(**{**vars(shorter), **most}))
        )
        found |= {f"driven_{name}": driven[name] for name in OTHER_WAYS}
        cost = driven["scheduler_us_per_round"] / found["scheduler_us_per_round"]
        say(f"there, with {driven['rounds_per_s']:,.0f} a second, a round costs {cost:.2f} of it")
    if can_keep_awake():
        say("the same for a moment, on cores that may sleep")
        asleep = figures(await run_scripted(run_dir, shorter, is_awake=False))
        found |= {f"asleep_{name}": asleep[name] for name in OTHER_WAYS}
        cost = asleep["scheduler_us_per_round"] / found["scheduler_us_per_round"]
        say(f"there a round costs {cost:.2f} of it")
    return found


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
    shares = window_shares(outcome.spent)
    if shares:
        found["quietest_us_per_round"] = 1e6 * min(shares) / found["rounds_per_s"]
        found["median_us_per_round"] = 1e6 * median(shares) / found["rounds_per_s"]
    if outcome.memory:
        found["grows_bytes_per_s"] = slope(outcome.memory)
    return {name: round(value, 3) for name, value in found.items()}


def window_shares(spent: Sequence[tuple[float, float]]) -> list[float]:
    """Of (seconds, CPU seconds): how much of a core was used in each ``WINDOW_S``. A machine that
    others use is slow for some of them."""
    shares: list[float] = []
    began = spent[0] if spent else (0.0, 0.0)
    for at_s, used_s in spent:
        if at_s - began[0] >= WINDOW_S:
            shares.append((used_s - began[1]) / (at_s - began[0]))
            began = (at_s, used_s)
    return shares


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
    parser.add_argument("--seconds", type=float, default=40.0, help="that are measured")
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds before")
    scripted = parser.add_argument_group("by script")
    scripted.add_argument(
        "--rounds-per-s", type=float, default=2500.0, help="if the scheduler took no time"
    )
    scripted.add_argument(
        "--most-rounds-per-s",
        type=float,
        default=5000.0,
        help="more than the load's core drives; 0: that is not measured",
    )
    scripted.add_argument("--nodes", type=int, default=16, help="of each draft")
    scripted.add_argument("--session-rounds", type=int, default=50, help="then a new session")
    return parser
