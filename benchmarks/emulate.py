"""A scenario of the simulator, acted out by the real services on emulated devices, beside what the
simulator says of it: the same YAML in both worlds.

What emulation cannot imitate is refused: verifiers of several kinds, failures, edges that vanish,
sweeps, devices on which context costs much, edges that draft nothing (the services let the verifier
go on by itself), and a dialled share of hits (an emulated edge's hits come from what it drafts).
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.figures import say
from benchmarks.paper_stack import CellFlags, CellOutcome, run_cell
from specedge.errors import InvalidRequest
from specedge_scheduler.sim.__main__ import read_file
from specedge_scheduler.sim.drafts import expected_tokens
from specedge_scheduler.sim.scenario import EdgeSpec, Scenario, read_scenario

EDGES_PER_FLEET: Final = 16
SEEDS_APART: Final = 1000  # of two scenarios' fleets, whose seeds are neighbours
MOST_CONTEXT: Final = 0.02  # of a step's time, that an emulated one may leave out
UNIFORM: Final = 12**0.5  # a uniform distribution's width, in its own standard deviations


def main(argv: Sequence[str]) -> None:
    """Both worlds, and a table."""
    arguments = _parser().parse_args(argv)
    scenario, flags = read(arguments.file)
    say(f"emulating {scenario.duration_s:g} s")
    with tempfile.TemporaryDirectory(prefix="specedge-emulate-") as run_dir:
        outcome = asyncio.run(run_cell(Path(run_dir), flags))
    compare(emulated_figures(outcome), simulated_figures(arguments.file))


def read(file: Path) -> tuple[Scenario, CellFlags]:
    """A scenario, and its processes' flags. Raises InvalidRequest, which names the file."""
    try:
        scenario = read_scenario(read_file(file))
        return scenario, flags_of(scenario)
    except InvalidRequest as error:
        raise InvalidRequest(f"{file}: {error}", field=error.field) from None


def flags_of(scenario: Scenario, edges_per_fleet: int = EDGES_PER_FLEET) -> CellFlags:
    """What the processes are started with. Raises InvalidRequest for what cannot be imitated."""
    if len(scenario.verifiers) > 1 or scenario.failures or scenario.sweep:
        message = "one kind of verifier, no failures and no sweep can be emulated"
        raise InvalidRequest(message, field="verifiers")
    spec, limits = scenario.verifiers[0], scenario.scheduler
    profile = spec.profile
    if _context_share(scenario) > MOST_CONTEXT:
        message = "a device on which context is a large part of a step cannot be emulated"
        raise InvalidRequest(message, field="verifiers.0.device")
    scheduler = ["--policy", limits.policy, "--max-batch-nodes", str(limits.batch_rows)]
    scheduler += ["--max-batch-sessions", str(limits.batch_sessions)]
    scheduler += ["--sessions-per-edge", str(limits.sessions_per_edge)]
    scheduler += ["--objective-ms", f"{limits.objective_ms:g}"]
    verifier = ["--slots", str(spec.slots), "--max-step-tokens", str(spec.step_rows)]
    verifier += ["--emulated-step-ms", f"{profile.fixed_ms:g}"]
    verifier += ["--emulated-row-ms", f"{profile.row_ms:g}"]
    verifier += ["--emulated-prefill-token-ms", f"{profile.prefill_token_ms:g}"]
    fleets = [
        flags
        for number, edges in enumerate(scenario.edges)
        for flags in _fleets(number, edges, scenario, edges_per_fleet)
    ]
    first = SEEDS_APART * scenario.seed
    seeded = [[*flags, "--seed", str(first + number)] for number, flags in enumerate(fleets)]
    return CellFlags(scheduler, verifier, seeded, num_verifiers=spec.count)


def _context_share(scenario: Scenario) -> float:
    """What the longest contexts cost, to the rest of the smallest step that has so many of them:
    emulated devices have no such cost."""
    spec, edges = scenario.verifiers[0], scenario.edges
    sessions = -(-sum(each.count * each.sessions for each in edges) // spec.count)
    rounds = min(sessions, scenario.scheduler.batch_sessions or sessions)
    longest = max(each.session.prompt_tokens + each.session.output_tokens for each in edges)
    context_ms = spec.profile.context_token_ms * rounds * longest
    return context_ms / spec.profile.step_ms(rows=rounds) if context_ms else 0.0


def _fleets(
    number: int, edges: EdgeSpec, scenario: Scenario, edges_per_fleet: int
) -> list[list[str]]:
    if edges.leaves_s is not None or edges.load.kind == "bursty" or edges.load.think_s:
        message = "edges that leave, think or come in bursts cannot be emulated"
        raise InvalidRequest(message, field=f"edges.{number}")
    if edges.proactive is not None and edges.proactive.hit is not None:
        message = "a share of hits cannot be dialled: an emulated edge's come from what it drafts"
        raise InvalidRequest(message, field=f"edges.{number}.proactive.hit")
    if edges.depth_range.max == 0:
        message = "services host an edge that drafts nothing, which the simulator does not know"
        raise InvalidRequest(message, field=f"edges.{number}.depth")
    common = [*_drafting(edges, scenario), *_link(edges), "--sessions", str(edges.sessions)]
    common += ["--prompt-tokens", str(edges.session.prompt_tokens)]
    common += ["--tokens", str(edges.session.output_tokens)]
    common += ["--warm-up-s", f"{scenario.warmup_s:g}"]
    common += ["--measure-s", f"{scenario.duration_s - scenario.warmup_s:g}"]
    flags = []
    for first in range(0, edges.count, edges_per_fleet):
        size = min(edges_per_fleet, edges.count - first)
        own = ["--fleet", f"fleet-{number}-{first}", "--edges", str(size)]
        if edges.load.kind == "poisson":
            own += ["--arrivals-per-s", f"{edges.load.per_s * size:g}"]
        flags.append([*own, *common])
    return flags


def usual_passes(edges: EdgeSpec, scenario: Scenario) -> int:
    """After a verdict that tells no time: what yields most tokens per second by itself, as a
    simulated edge has it."""
    depth, spec = edges.depth_range, scenario.verifiers[0]
    yields = expected_tokens(edges.acceptance, depth.max)
    hosts_ms = edges.draft_ms + scenario.scheduler.cluster_ms + spec.answer_ms

    def rate(passes: int) -> float:
        away_ms = edges.link_spec.round_trip_ms + hosts_ms + spec.profile.step_ms(rows=1 + passes)
        return yields[passes] / (passes * edges.draft_pass_ms + away_ms)

    return max(range(depth.min, depth.max + 1), key=rate)


def _drafting(edges: EdgeSpec, scenario: Scenario) -> list[str]:
    depth = edges.depth_range
    agreement = ",".join(f"{share:g}" for share in edges.acceptance)
    nodes = edges.nodes or depth.max
    branch = -(-nodes // max(1, depth.min)) if edges.nodes else 1
    return [
        *("--pass-ms", f"{edges.draft_pass_ms:g}", "--agreement", f"{agreement}"),
        *("--depth", str(depth.max), "--passes", str(usual_passes(edges, scenario))),
        *("--paced", str(depth.min < depth.max).lower(), "--budget", str(nodes)),
        *("--branch", str(branch), "--beams", "1"),
        *("--proactive", str(edges.proactive is not None).lower()),
    ]


def _link(edges: EdgeSpec) -> list[str]:
    """The simulator's jitter is a standard deviation around the mean; a fleet's is evenly spread
    above its least delay."""
    link = edges.link_spec
    width_ms = min(link.jitter_ms * UNIFORM, link.round_trip_ms)
    return [
        *("--round-trip-ms", f"{link.round_trip_ms - width_ms:g}"),
        *("--jitter-ms", f"{width_ms:g}", "--loss", f"{link.loss:g}"),
    ]


def emulated_figures(outcome: CellOutcome) -> dict[str, float]:
    """Under the simulator's names."""
    spans = [fleet["token_ms"] for fleet in outcome.fleets if fleet["token_ms"]]
    count = sum(span["count"] for span in spans) or 1
    rounds = sum(fleet["rounds"] for fleet in outcome.fleets) or 1
    tokens = sum(fleet["tokens_per_round"] * fleet["rounds"] for fleet in outcome.fleets)
    late = [fleet["device_late_ms"] for fleet in outcome.fleets if fleet["device_late_ms"]]
    return {
        "tokens_per_s": outcome.verifier.value("specedge_generation_tokens_total") / outcome.wall_s,
        "ms_per_token_p50": sum(span["p50"] * span["count"] for span in spans) / count,
        "tokens_per_round": tokens / rounds,
        "rounds_per_step": sum(step.sessions for step in outcome.steps)
        / max(1, len(outcome.steps)),
        "late_p99_ms": max((each["p99"] for each in late), default=0.0),
    }


def simulated_figures(file: Path) -> dict[str, Any]:
    """What the simulator says of the first run of the file."""
    command = [sys.executable, "-m", "specedge_scheduler.sim", str(file), "--json", "-"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    figures: dict[str, Any] = json.loads(told.stdout)["runs"][0]["figures"]
    return figures


def compare(emulated: dict[str, float], simulated: dict[str, Any]) -> None:
    """A table, and the same as JSON on stdout."""
    table = Table(title="emulated and simulated")
    for name in ("figure", "emulated", "simulated", "simulated / emulated"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    ratios = {}
    for name, value in emulated.items():
        other = simulated.get(name)
        if other is None:
            table.add_row(name, f"{value:.2f}", "", "")
            continue
        ratios[name] = other / value if value else 0.0
        table.add_row(name, f"{value:.2f}", f"{other:.2f}", f"{ratios[name]:.3f}")
    Console(stderr=True).print(table)
    print(json.dumps({"emulated": emulated, "ratio": ratios}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks emulate", description=__doc__)
    parser.add_argument("file", type=Path, help="a scenario of `specedge simulate`")
    return parser
