"""``python -m benchmarks controller``: the controller against every fixed setting, over links and
drafters, in virtual time.

Each cell is a round trip and a drafter's speed. In each, the same texts are generated with the
controller, from nothing known, and with every setting of a sweep: plain (hosted, the verifier
alone), empty drafts, and trees of so many levels and nodes. Devices cost what ``costs`` says; the
drafter's proposals and their fate come from a real pair's trace (``python -m benchmarks trace``).

    best_share    controller's tokens per second over the best setting's of the same cell
    plain_share   over plain's
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.figures import OUT, machine, say
from benchmarks.traces import TRACES, Trace, TraceText, synthetic_trace
from benchmarks.virtual_pair import Control, FixedSetting, PairCosts, PairResult, VirtualPair
from specedge.drafting.controller import Decision, DraftController
from specedge.drafting.pace import DevicePace
from specedge.params import DraftPolicy
from specedge.tree.calibration import Tally

ROUND_TRIPS_MS: Final = (0.0, 14.0, 50.0, 150.0)
SLOWNESS: Final = (1.0, 4.0)
DEPTHS: Final = (1, 2, 3, 4, 6)
BUDGETS: Final = (3, 5, 7, 9, 12, 16)
GRANT_TOKENS: Final = 64
BOUNDS: Final = DraftPolicy(depth=8, budget=32)
TRACE: Final = TRACES / "smollm2-135m.npz"

# SmolLM2-135M-Instruct in fp32 on one core of a cloud machine without AVX-512: steps of 1 … 8 rows
# took the same time, and each further row some 6 ms. The drafter: four of its thirty layers and a
# head over 12,288 tokens.
STEP_FIXED_MS: Final = 70.0
STEP_FREE_ROWS: Final = 8
STEP_ROW_MS: Final = 6.0
PASS_MS: Final = 12.0
PASS_ROW_MS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Size:
    """How much text a cell is measured on: so many generations of so many tokens."""

    sessions: int
    tokens: int


SIZE: Final = Size(sessions=4, tokens=320)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one control in one cell, over all its generations."""

    tokens_per_s: float
    tokens_per_round: float
    nodes_per_round: float
    hosted_share: float

    @classmethod
    def of(cls, results: Sequence[PairResult]) -> "Outcome":
        """The sums' ratios."""
        tokens = sum(result.num_tokens for result in results)
        hosted = sum(result.num_hosted_tokens for result in results)
        rounds = max(1, sum(result.num_drafted_rounds for result in results))
        timed = sum(result.num_tokens - result.first_tokens for result in results)
        return cls(
            timed / sum(result.decode_s for result in results),
            (tokens - hosted) / rounds,
            sum(result.num_sent for result in results) / rounds,
            hosted / tokens,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured at one round trip with one drafter. ``fixed`` by setting's name."""

    round_trip_ms: float
    slowness: float
    controller: Outcome
    fixed: dict[str, Outcome]

    @property
    def best(self) -> str:
        """Name of the best fixed setting."""
        return max(self.fixed, key=lambda name: self.fixed[name].tokens_per_s)

    @property
    def best_share(self) -> float:
        """The controller over the best setting."""
        return self.controller.tokens_per_s / self.fixed[self.best].tokens_per_s

    @property
    def plain_share(self) -> float:
        """The controller over plain."""
        return self.controller.tokens_per_s / self.fixed[PLAIN].tokens_per_s


PLAIN: Final = "plain"


def settings(
    depths: Sequence[int] = DEPTHS, budgets: Sequence[int] = BUDGETS
) -> dict[str, Decision]:
    """Every fixed setting, by name: ``plain``, ``0x0`` (empty drafts), ``<depth>x<budget>``."""
    trees = {
        f"{depth}x{budget}": Decision(DraftPolicy(depth=depth, budget=budget))
        for depth in depths
        for budget in budgets
        if depth <= budget
    }
    return {
        PLAIN: Decision(None, run=GRANT_TOKENS),
        "0x0": Decision(DraftPolicy(depth=0, budget=0)),
        **trees,
    }


def costs(round_trip_ms: float, slowness: float) -> PairCosts:
    """The pair of ``STEP_…`` and ``PASS_…``, its drafter slowed down."""
    return PairCosts(
        step=lambda rows: STEP_FIXED_MS + STEP_ROW_MS * max(0, rows - STEP_FREE_ROWS),
        pass_ms=PASS_MS * slowness,
        row_ms=PASS_ROW_MS * slowness,
        round_trip_ms=round_trip_ms,
    )


def measure_cell(
    trace: Trace, pair: PairCosts, size: Size, sweep: dict[str, Decision], slowness: float
) -> Cell:
    """The controller and every setting of ``sweep`` on the same texts."""

    def outcome(make_control: Callable[[], Control]) -> Outcome:
        return Outcome.of(list(_generations(trace, pair, size, make_control)))

    pace = DevicePace()
    return Cell(
        pair.round_trip_ms,
        slowness,
        outcome(lambda: DraftController(pace, BOUNDS, GRANT_TOKENS)),
        {name: outcome(partial(FixedSetting, decision)) for name, decision in sweep.items()},
    )


def _generations(
    trace: Trace, pair: PairCosts, size: Size, make_control: Callable[[], Control]
) -> Iterator[PairResult]:
    """One after the other, learning from one another as the sessions of one edge do."""
    tally = Tally()
    for number in range(size.sessions):
        text = TraceText(trace, offset=number * len(trace) // size.sessions)
        yield VirtualPair(make_control(), text, pair, tally, size.tokens, seed=number).run()


def main(argv: Sequence[str]) -> None:
    """Measure the grid; print it; write JSON and figure."""
    options = _parser().parse_args(argv)
    path = Path(options.trace)
    trace = Trace.load(path) if path.is_file() else synthetic_trace()
    say(f"trace: {trace.source}")
    size = Size(options.sessions, options.tokens)
    cells = []
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
        where = [(slowness, trip_ms) for slowness in SLOWNESS for trip_ms in ROUND_TRIPS_MS]
        for cell in processes.map(partial(_measure_at, trace, size), where):
            say(_line(cell))
            cells.append(cell)
    Console(width=100).print(_table(cells))
    _write(Path(options.json), trace, size, cells)
    from benchmarks.controller_plot import plot  # matplotlib only where a figure is wanted

    plot(cells, trace.source, Path(options.figure))
    say(f"figures: {options.json}, {options.figure}")


def _measure_at(trace: Trace, size: Size, where: tuple[float, float]) -> Cell:
    """In a process of its own: slowness and round trip."""
    slowness, round_trip_ms = where
    return measure_cell(trace, costs(round_trip_ms, slowness), size, settings(), slowness)


def _line(cell: Cell) -> str:
    return (
        f"{cell.round_trip_ms:g} ms, drafter 1/{cell.slowness:g}: {cell.best_share:.3f} of "
        f"{cell.best}, {cell.plain_share:.3f} of plain"
    )


def _table(cells: Sequence[Cell]) -> Table:
    table = Table(title="Controller against the best fixed setting of each cell, tokens per second")
    for name in ("trip", "drafter", "plain", "best", "", "ours", "of best", "of plain", "hosted"):
        table.add_column(name, justify="right")
    for name in ("nodes", "tokens a round"):
        table.add_column(name, justify="right")
    for cell in cells:
        own = cell.controller
        table.add_row(
            f"{cell.round_trip_ms:g} ms",
            f"1/{cell.slowness:g}" if cell.slowness > 1 else "full",
            f"{cell.fixed[PLAIN].tokens_per_s:.2f}",
            cell.best,
            f"{cell.fixed[cell.best].tokens_per_s:.2f}",
            f"{own.tokens_per_s:.2f}",
            f"{cell.best_share:.3f}",
            f"{cell.plain_share:.3f}",
            f"{own.hosted_share:.0%}",
            f"{own.nodes_per_round:.1f}",
            f"{own.tokens_per_round:.2f}",
        )
    return table


def _write(path: Path, trace: Trace, size: Size, cells: Sequence[Cell]) -> None:
    shares = [cell.best_share for cell in cells], [cell.plain_share for cell in cells]
    body = {
        "trace": trace.source,
        "size": asdict(size),
        "controller_worst_best_share": min(shares[0]),
        "controller_worst_plain_share": min(shares[1]),
        "cells": [
            {**asdict(cell), "best": cell.best, "best_share": cell.best_share}
            | {"plain_share": cell.plain_share}
            for cell in cells
        ],
        **machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks controller", description=__doc__)
    parser.add_argument("--trace", default=str(TRACE), help="recorded by `trace`")
    parser.add_argument("--sessions", type=int, default=SIZE.sessions, help="generations a cell")
    parser.add_argument("--tokens", type=int, default=SIZE.tokens, help="of each generation")
    parser.add_argument("--json", default=str(OUT / "controller.json"), help="where to")
    parser.add_argument("--figure", default=str(OUT / "controller.png"), help="where to")
    return parser
