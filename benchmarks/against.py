"""The simulator held against the real services on emulated devices: the same YAML in both worlds,
both figures and their ratio, and exit code 1 where throughput or the median time per token differ
by more than a tenth.

The emulation runs once, in real time; the simulator with several seeds, since its luck costs
nothing. A machine that could not keep the emulation's time has measured nothing: it is tried again.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.emulate import emulated_figures, read
from benchmarks.figures import say
from benchmarks.paper_stack import CellFlags, CellOutcome, run_cell
from specedge.profiles import DeviceProfile
from specedge_scheduler.sim.scenario import Scenario
from specedge_scheduler.sim.world import simulate

SCENARIOS: Final = Path(__file__).parent / "scenarios"
JUDGED: Final = ("tokens_per_s", "ms_per_token_p50")
SHOWN: Final = (*JUDGED, "tokens_per_round", "rounds_per_step")
SEEDS: Final = 4
ATTEMPTS: Final = 3
MOST_SLOW: Final = 1.02  # steps of an emulated device may take so many times what they should
MOST_LATE_MS: Final = 2.0  # p99 of how late an edge's emulated device hands its outcomes over
LATE, BEYOND = 2, 1  # exit codes


@dataclass(frozen=True, slots=True)
class Comparison:
    """One file in both worlds.

    slowness  how many times as long the emulated verifiers' steps took as they should
    """

    file: str
    emulated: dict[str, float]
    simulated: dict[str, float]
    slowness: float

    @property
    def ratios(self) -> dict[str, float]:
        """Simulated to emulated, of what is judged; 0 where the emulation has no figure, since no
        session had tokens enough."""
        return {
            name: self.simulated[name] / self.emulated[name] if self.emulated[name] else 0.0
            for name in JUDGED
        }

    @property
    def has_kept_up(self) -> bool:
        """Whether the machine was quick enough for the emulation to mean anything."""
        return self.slowness <= MOST_SLOW and self.emulated["late_p99_ms"] <= MOST_LATE_MS

    @property
    def reproach(self) -> str:
        """Of a machine that did not keep up."""
        late_ms = self.emulated["late_p99_ms"]
        return f"steps {self.slowness:.2f} times as long, edges' devices {late_ms:.1f} ms late"

    def agrees(self, tolerance: float) -> bool:
        """Whether nothing that is judged differs by more."""
        return all(abs(ratio - 1) <= tolerance for ratio in self.ratios.values())


def main(argv: Sequence[str]) -> None:
    """Every file in both worlds."""
    options = _parser().parse_args(argv)
    asked = [(file.stem, *read(file)) for file in options.files]  # all are right, before the first
    found = [compare(*each) for each in asked]
    _show(found, options.tolerance)
    if options.json:
        told = [asdict(one) | {"ratios": one.ratios} for one in found]
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if code := exit_code(found, options.tolerance):
        sys.exit(code)


def exit_code(found: Sequence[Comparison], tolerance: float) -> int:
    """0: both worlds agree; else whether the simulator or the machine is to blame."""
    if any(one.has_kept_up and not one.agrees(tolerance) for one in found):
        return BEYOND
    return 0 if all(one.has_kept_up for one in found) else LATE


def compare(name: str, scenario: Scenario, flags: CellFlags) -> Comparison:
    """One file; the emulation again, if the machine was too slow for it."""
    simulated = simulated_figures(scenario)
    for _ in range(ATTEMPTS):
        say(f"{name}: emulating {scenario.duration_s:g} s")
        with tempfile.TemporaryDirectory(prefix="specedge-against-") as run_dir:
            outcome = asyncio.run(run_cell(Path(run_dir), flags))
        slow = slowness(outcome, scenario.verifiers[0].profile)
        found = Comparison(name, emulated_figures(outcome), simulated, slow)
        if found.has_kept_up:
            return found
        say(f"{name}: too slow a machine to tell: {found.reproach}")
    return found


def simulated_figures(scenario: Scenario) -> dict[str, float]:
    """Means over several seeds, the scenario's own among them."""
    seeds = range(scenario.seed, scenario.seed + SEEDS)
    runs = [simulate(scenario.model_copy(update={"seed": seed})) for seed in seeds]
    return {name: fmean(getattr(run, name) for run in runs) for name in SHOWN}


def slowness(outcome: CellOutcome, profile: DeviceProfile) -> float:
    """Of the verifiers' steps, how many times as long as the profile says they took."""
    should_ms = [
        profile.step_ms(
            rows=step.rows - step.prefill,
            context_tokens=step.context,
            prefill_tokens=step.prefill,
        )
        for step in outcome.steps
    ]
    return sum(step.ms for step in outcome.steps) / max(sum(should_ms), 1e-9)


def _show(found: Sequence[Comparison], tolerance: float) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("scenario")
    for title in ("figure", "emulated", "simulated", "ratio"):
        table.add_column(title, justify="left" if title == "figure" else "right")
    for one in found:
        for name in SHOWN:
            emulated, simulated = one.emulated[name], one.simulated[name]
            ratio = f"{simulated / emulated:.3f}" if emulated else ""
            first = one.file if name == SHOWN[0] else ""
            table.add_row(first, name, f"{emulated:.2f}", f"{simulated:.2f}", ratio)
        if not one.has_kept_up:
            table.add_row("", f"not kept up: {one.reproach}")
        elif not one.agrees(tolerance):
            table.add_row("", f"differs by more than {tolerance:.0%}")
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks against", description=__doc__)
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        default=sorted(SCENARIOS.glob("*.yaml")),
        help="scenarios of `specedge simulate` (default: those of benchmarks/scenarios)",
    )
    parser.add_argument("--tolerance", type=float, default=0.1, help="a share (default: 0.1)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser
