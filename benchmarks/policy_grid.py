"""``python -m benchmarks policy``: the shipped policy against barrier and greedy, in virtual time.

The paper's pair of Qwen3-14B and Qwen3-0.6B on an A100 and RTX 4090s, two edges a place, over
batch sizes and round trips. Barrier and greedy at every fixed depth, and greedy with edges that
choose their own too: each is shown at its best. The shipped policy's edges choose their own depth.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.policy_plot import plot
from specedge.pairs import QWEN3_14B_PAPER
from specedge_scheduler.sim.scenario import read_scenario
from specedge_scheduler.sim.world import simulate

BATCHES: Final = (1, 4, 8, 16)
ROUND_TRIPS_MS: Final = (0.0, 14.07, 50.0, 100.0)
DEPTHS: Final = (3, 4, 5, 6, 7, 8, 9, 10)
FREE: Final = {"min": 3, "max": 10}
HIT_SHARE: Final = 0.45
EDGES_PER_PLACE: Final = 2
WARMUP_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Cell:
    """Tokens per second at one batch size and round trip; ``…_at`` the best depth there."""

    batch: int
    round_trip_ms: float
    static: float
    static_at: str
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
    def over_greedy(self) -> float:
        """As a ratio."""
        return self.jit / self.greedy


def measure(cell: tuple[int, float, float]) -> Cell:
    """All policies at one batch size and round trip, for so many virtual seconds."""
    batch, round_trip_ms, seconds = cell

    def run(policy: str, depth: object) -> tuple[float, float, float]:
        figures = simulate(
            read_scenario(_fields(policy, depth, batch, round_trip_ms, WARMUP_S + seconds))
        )
        return figures.tokens_per_s, figures.busy_share, figures.rounds_per_step

    static = {str(depth): run("static", depth)[0] for depth in DEPTHS}
    greedy = {str(depth): run("greedy", depth)[0] for depth in DEPTHS[::2]}
    greedy["own"] = run("greedy", FREE)[0]
    best_static = max(static, key=lambda depth: static[depth])
    best_greedy = max(greedy, key=lambda depth: greedy[depth])
    tokens_per_s, busy, fill = run("jit", FREE)
    return Cell(
        batch,
        round_trip_ms,
        static[best_static],
        best_static,
        greedy[best_greedy],
        best_greedy,
        tokens_per_s,
        busy,
        fill,
    )


def main(arguments: Sequence[str]) -> None:
    """Run the grid; the command's own arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks policy")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="virtual, of each run of 16 rounds a step"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    # Few rounds a step are few rounds a second: longer, so that luck weighs the same.
    wanted = [
        (batch, trip, options.seconds * max(BATCHES) / batch)
        for trip in ROUND_TRIPS_MS
        for batch in BATCHES
    ]
    with ProcessPoolExecutor(max_workers=2) as pool:
        cells = list(pool.map(measure, wanted))
    _show(cells)
    if options.json:
        told = [asdict(cell) for cell in cells]
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if options.figure:
        plot(cells, options.figure)


def _fields(
    policy: str, depth: object, batch: int, round_trip_ms: float, duration_s: float
) -> dict[str, object]:
    pair = QWEN3_14B_PAPER
    homes = {
        "count": EDGES_PER_PLACE * batch,
        "draft_pass_ms": pair.edge_drafter.draft_pass_ms,
        "depth": depth,
        "nodes": 32,
        "acceptance": [pair.acceptance],
        "proactive": {"hit": HIT_SHARE},
        "link": {"round_trip_ms": round_trip_ms, "jitter_ms": 0.5},
        "session": {"prompt_tokens": 64, "output_tokens": 1000},
    }
    return {
        "duration_s": duration_s,
        "warmup_s": WARMUP_S,
        "scheduler": {"policy": policy, "batch_sessions": batch},
        "verifiers": [{"device": pair.target.name}],
        "edges": [homes],
    }


def _show(cells: Sequence[Cell]) -> None:
    table = Table(box=None)
    for title in ("round trip", "batch", "static", "at", "greedy", "at", "jit"):
        table.add_column(title, justify="right")
    for title in ("over static", "over greedy", "busy", "fill"):
        table.add_column(title, justify="right")
    for cell in cells:
        table.add_row(
            f"{cell.round_trip_ms:g} ms",
            str(cell.batch),
            *(f"{cell.static:.1f}", cell.static_at, f"{cell.greedy:.1f}", cell.greedy_at),
            *(f"{cell.jit:.1f}", f"{cell.over_static - 1:+.1%}", f"{cell.over_greedy - 1:+.1%}"),
            *(f"{cell.jit_busy:.1%}", f"{cell.jit_fill:.2f}"),
        )
    console = Console()
    console.print(table)
    console.print(
        f"mean over static {fmean(cell.over_static for cell in cells) - 1:+.1%}, "
        f"least {min(cell.over_static for cell in cells) - 1:+.1%}; "
        f"mean over greedy {fmean(cell.over_greedy for cell in cells) - 1:+.1%}, "
        f"least {min(cell.over_greedy for cell in cells) - 1:+.1%}"
    )
