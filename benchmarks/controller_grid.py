"""``python -m benchmarks controller``: the controller against every fixed setting, over links and
drafters, in virtual time.

Each cell is a round trip and a drafter's speed. In each, the same texts are generated with the
controller, from nothing known, and with every setting of a sweep: plain (hosted, the verifier
alone), empty drafts, and trees of so many levels and nodes. What devices cost is in ``DEVICES``.
The drafter's proposals and their fate are a real pair's trace (``python -m benchmarks trace``).

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
from itertools import pairwise, product
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.figures import OUT, machine, say
from benchmarks.traces import TRACES, Trace, TraceText, synthetic_trace
from benchmarks.virtual_pair import VirtualPair
from benchmarks.virtual_world import Control, FixedSetting, PairCosts, PairResult
from specedge.drafting.controller import DraftController
from specedge.drafting.pace import DevicePace
from specedge.drafting.rounds import Decision
from specedge.params import DraftPolicy
from specedge.profiles import A100_40_QWEN3_14B_ROOFLINE, RTX_4090_QWEN3_0_6B_ROOFLINE
from specedge.tree.calibration import Tally

ROUND_TRIPS_MS: Final = (0.0, 14.0, 50.0, 150.0)
SLOWNESS: Final = (1.0, 4.0)
DEPTHS: Final = (1, 2, 3, 5)
BUDGETS: Final = (3, 5, 7, 12, 24)
GRANT_TOKENS: Final = 64
BOUNDS: Final = DraftPolicy(depth=8, budget=32)
TRACE: Final = TRACES / "smollm2-135m.npz"


@dataclass(frozen=True, slots=True)
class Device:
    """A verifier and a drafter. ``steps`` are (rows, milliseconds) of the target, straight between
    them and beyond the last two."""

    source: str
    steps: tuple[tuple[int, float], ...]
    pass_ms: float
    row_ms: float

    def step_ms(self, num_rows: int) -> float:
        """A step of the target."""
        before, after = next(
            (pair for pair in pairwise(self.steps) if num_rows <= pair[1][0]), self.steps[-2:]
        )
        slope = (after[1] - before[1]) / (after[0] - before[0])
        return before[1] + slope * (num_rows - before[0])


# Each on one core, as `specedge` computes them, the target in fp32, the drafter in int8: medians by
# `python -m benchmarks costs`. On an EPYC with AVX2, before weights were kept in fewer bytes, a
# pass took 4.5, 4.4, 5.9, 9.9 ms for 1, 2, 4, 8 nodes; with AVX-512 and since then 2.7, 2.8, 3.4,
# 5.6; on a Xeon with AVX-512, and the target's weights in blocks, 4.0, 4.2, 5.0, 6.7.
CPU_PASS: Final = {"pass_ms": 3.3, "row_ms": 0.8}
DEVICES: Final = {
    "cpu": Device(
        "SmolLM2-135M-Instruct and its drafter, each on one core",
        (
            (1, 32.5),
            (2, 38.0),
            (4, 42.1),
            (6, 42.1),
            (8, 46.5),
            (9, 48.8),
            (12, 56.6),
            (16, 75.9),
            (24, 109.4),
        ),
        **CPU_PASS,
    ),
    "quick": Device(
        "the same two on cores with AVX-512",
        (
            (1, 16.3),
            (2, 18.2),
            (4, 20.0),
            (6, 22.1),
            (8, 29.1),
            (9, 31.7),
            (12, 38.8),
            (16, 52.8),
            (24, 77.2),
        ),
        pass_ms=2.0,
        row_ms=0.43,
    ),
    "blocks": Device(
        "the same two on cores with AVX-512, the target's weights in blocks: rows have a price",
        (
            (1, 10.1),
            (2, 11.3),
            (4, 13.8),
            (6, 16.5),
            (8, 19.8),
            (9, 21.5),
            (12, 29.9),
            (16, 37.0),
            (24, 54.7),
        ),
        pass_ms=3.6,
        row_ms=0.38,
    ),
    "flat": Device(
        "a target that is flat to eight rows, then 6 ms a row; the same drafter",
        ((1, 70.0), (8, 70.0), (32, 214.0)),
        **CPU_PASS,
    ),
    "gpu": Device(
        "rooflines of specedge.profiles: Qwen3-14B on an A100, a 0.6B drafter on an RTX 4090",
        tuple((rows, A100_40_QWEN3_14B_ROOFLINE.step_ms(rows)) for rows in (1, 65)),
        RTX_4090_QWEN3_0_6B_ROOFLINE.draft_pass_ms,
        0.0,
    ),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much text a cell is measured on: so many generations of so many tokens."""

    sessions: int
    tokens: int


SIZE: Final = Size(sessions=3, tokens=256)


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

    device: str
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


def costs(device: Device, round_trip_ms: float, slowness: float) -> PairCosts:
    """A pair over a link, its drafter slowed down."""
    return PairCosts(
        step=device.step_ms,
        pass_ms=device.pass_ms * slowness,
        row_ms=device.row_ms * slowness,
        round_trip_ms=round_trip_ms,
    )


def measure_cell(
    trace: Trace, where: tuple[str, float, float], size: Size, sweep: dict[str, Decision]
) -> Cell:
    """The controller and every setting of ``sweep`` on the same texts. ``where``: the device's
    name, the drafter's slowness, the round trip in milliseconds."""
    name, slowness, round_trip_ms = where
    pair = costs(DEVICES[name], round_trip_ms, slowness)

    def outcome(make_control: Callable[[], Control]) -> Outcome:
        return Outcome.of(list(_generations(trace, pair, size, make_control)))

    pace = DevicePace()
    return Cell(
        name,
        round_trip_ms,
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
        where = list(product(options.devices.split(","), SLOWNESS, ROUND_TRIPS_MS))
        for cell in processes.map(partial(_measure_at, trace, size), where):
            say(_line(cell))
            cells.append(cell)
    Console(width=100).print(_table(cells))
    _write(Path(options.json), trace, size, cells)
    from benchmarks.controller_plot import plot  # matplotlib only where a figure is wanted

    plot(cells, trace.source, Path(options.figure))
    say(f"figures: {options.json}, {options.figure}")


def _measure_at(trace: Trace, size: Size, where: tuple[str, float, float]) -> Cell:
    """In a process of its own."""
    return measure_cell(trace, where, size, settings())


def _line(cell: Cell) -> str:
    return (
        f"{cell.device}, {cell.round_trip_ms:g} ms, drafter 1/{cell.slowness:g}: "
        f"{cell.best_share:.3f} of {cell.best}, {cell.plain_share:.3f} of plain"
    )


def _table(cells: Sequence[Cell]) -> Table:
    table = Table(title="Controller against the best fixed setting of each cell, tokens per second")
    for name in (
        "device",
        "trip",
        "drafter",
        "plain",
        "best",
        "",
        "ours",
        "of best",
        "of plain",
        "hosted",
    ):
        table.add_column(name, justify="right")
    for name in ("nodes", "tokens a round"):
        table.add_column(name, justify="right")
    for cell in cells:
        own = cell.controller
        table.add_row(
            cell.device,
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
        "devices": {name: asdict(device) for name, device in DEVICES.items()},
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
    parser.add_argument("--devices", default=",".join(DEVICES), help="with commas between")
    parser.add_argument("--sessions", type=int, default=SIZE.sessions, help="generations a cell")
    parser.add_argument("--tokens", type=int, default=SIZE.tokens, help="of each generation")
    parser.add_argument("--json", default=str(OUT / "controller.json"), help="where to")
    parser.add_argument("--figure", default=str(OUT / "controller.png"), help="where to")
    return parser
