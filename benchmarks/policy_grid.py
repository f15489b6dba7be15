"""``python -m benchmarks policy``: the shipped policy against barrier and greedy, in virtual time.

A published pair on an A100 and RTX 4090s, two edges a place, over batch sizes and round trips.
The barrier at every fixed depth; greedy at every second one, and with edges that choose their own:
each is shown at its best. "Sized" is the barrier with the best size of draft as well as the best
depth, which somebody would have to find out for every cell. The shipped policy's edges choose their
own.

A round counts as what its levels yield on average: the best of many runs would else be the
luckiest one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.policy_plot import plot
from specedge.pairs import PAIRS, QWEN3_14B_PAPER
from specedge_scheduler.sim.measures import Figures
from specedge_scheduler.sim.scenario import read_scenario
from specedge_scheduler.sim.world import simulate

BATCHES: Final = (1, 4, 8, 16)
ROUND_TRIPS_MS: Final = (0.0, 14.07, 50.0, 100.0)
DEPTHS: Final = (3, 4, 5, 6, 7, 8, 9, 10)
NODES: Final = 32  # of a draft; of the deepest one, where size follows depth
FREE: Final = {"min": 3, "max": 10}
HIT_SHARE: Final = 0.45
EDGES_PER_PLACE: Final = 2
WARMUP_S: Final = 20.0  # the policy tries its habits meanwhile


@dataclass(frozen=True, slots=True)
class Question:
    """What one cell is about; ``seconds`` are virtual."""

    batch: int
    round_trip_ms: float
    seconds: float
    pair: str
    seed: int


@dataclass(frozen=True, slots=True)
class Cell:
    """Tokens per second at one batch size and round trip; ``…_at`` the best depth there."""

    batch: int
    round_trip_ms: float
    static: float
    static_at: str
    sized: float
    sized_at: str
    greedy: float
    greedy_at: str
    jit: float
    jit_busy: float
    jit_fill: float

    @property
    def over_static(self) -> float:
        """How much more the shipped policy yields, as a ratio."""
        return self.jit / self.static

    @property
    def over_sized(self) -> float:
        """As a ratio."""
        return self.jit / self.sized

    @property
    def over_greedy(self) -> float:
        """As a ratio."""
        return self.jit / self.greedy


def measure(asked: Question) -> Cell:
    """All policies at one batch size and round trip."""

    def run(policy: str, depth: object, nodes: int = NODES) -> Figures:
        return simulate(read_scenario(_fields(asked, policy, depth, nodes)))

    def best(of: dict[str, Figures]) -> tuple[float, str]:
        at = max(of, key=lambda depth: of[depth].expected_tokens_per_s)
        return of[at].expected_tokens_per_s, at

    static = {str(depth): run("static", depth) for depth in DEPTHS}
    sized = {str(depth): run("static", depth, _in_proportion(depth)) for depth in DEPTHS}
    greedy = {str(depth): run("greedy", depth) for depth in DEPTHS[::2]}
    greedy["own"] = run("greedy", FREE)
    jit = run("jit", FREE)
    return Cell(
        asked.batch,
        asked.round_trip_ms,
        *best(static),
        *best(sized),
        *best(greedy),
        jit.expected_tokens_per_s,
        jit.busy_share,
        jit.rounds_per_step,
    )


def main(arguments: Sequence[str]) -> None:
    """Run the grid; the command's own arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks policy")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="virtual, of each run of 16 rounds a step"
    )
    parser.add_argument("--pair", choices=sorted(PAIRS), default=QWEN3_14B_PAPER.name)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    # Few rounds a step are few rounds a second: longer, so that luck weighs the same.
    wanted = [
        Question(batch, trip, options.seconds * max(BATCHES) / batch, options.pair, options.seed)
        for trip in ROUND_TRIPS_MS
        for batch in BATCHES
    ]
    with ProcessPoolExecutor(max_workers=options.workers) as pool:
        cells = list(pool.map(measure, wanted))
    _show(cells)
    if options.json:
        told = [asdict(cell) for cell in cells]
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if options.figure:
        plot(cells, options.figure)


def _in_proportion(depth: int) -> int:
    return round(NODES * depth / max(DEPTHS))


def _fields(asked: Question, policy: str, depth: object, nodes: int) -> dict[str, object]:
    pair = PAIRS[asked.pair]
    homes = {
        "count": EDGES_PER_PLACE * asked.batch,
        "draft_pass_ms": pair.edge_drafter.draft_pass_ms,
        "depth": depth,
        "nodes": nodes,
        "acceptance": [pair.acceptance],
        "proactive": {"hit": HIT_SHARE},
        "link": {"round_trip_ms": asked.round_trip_ms, "jitter_ms": 0.5},
        "session": {"prompt_tokens": 64, "output_tokens": 1000},
    }
    return {
        "duration_s": WARMUP_S + asked.seconds,
        "warmup_s": WARMUP_S,
        "seed": asked.seed,
        "scheduler": {"policy": policy, "batch_sessions": asked.batch},
        "verifiers": [{"device": pair.target.name}],
        "edges": [homes],
    }


def _show(cells: Sequence[Cell]) -> None:
    table = Table(box=None)
    for title in ("round trip", "batch", "static", "at", "sized", "at", "greedy", "at", "jit"):
        table.add_column(title, justify="right")
    for title in ("over static", "over sized", "over greedy", "busy", "fill"):
        table.add_column(title, justify="right")
    for cell in cells:
        table.add_row(
            f"{cell.round_trip_ms:g} ms",
            str(cell.batch),
            *(f"{cell.static:.1f}", cell.static_at, f"{cell.sized:.1f}", cell.sized_at),
            *(f"{cell.greedy:.1f}", cell.greedy_at, f"{cell.jit:.1f}"),
            *(f"{cell.over_static - 1:+.1%}", f"{cell.over_sized - 1:+.1%}"),
            *(f"{cell.over_greedy - 1:+.1%}", f"{cell.jit_busy:.1%}", f"{cell.jit_fill:.2f}"),
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for name, ratios in (
        ("static", [cell.over_static for cell in cells]),
        ("sized", [cell.over_sized for cell in cells]),
        ("greedy", [cell.over_greedy for cell in cells]),
    ):
        console.print(f"over {name}: mean {fmean(ratios) - 1:+.1%}, least {min(ratios) - 1:+.1%}")
