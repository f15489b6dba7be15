"""The paper's table over the real services: plain, server-only and SpecEdge at batch 1, 4, 8 and
16 with two edges per slot, and the ablation. Devices are emulated; time, broker, scheduler,
verifier and edges are real.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import OUT, machine, say
from benchmarks.paper_cells import Cell, flags_of, plan
from benchmarks.paper_figures import CellFigures, figures_of
from benchmarks.paper_report import report
from benchmarks.paper_stack import recording, run_cell


def main(argv: Sequence[str]) -> None:
    """Measure, write ``out/paper.json`` and its plots, print the tables."""
    arguments = _parser().parse_args(argv)
    path = Path(arguments.out)
    if arguments.report:
        report(_load(path), path)
        return
    cells = [cell for cell in plan(quick=arguments.quick) if arguments.only in cell.name]
    total_s = sum(cell.measure_s + 8 for cell in cells)
    say(f"{len(cells)} cells, about {total_s / 60:.0f} minutes")
    measured = _load(path) if arguments.keep and path.exists() else {}
    for number, cell in enumerate(cells):
        figures = measure(cell, arguments.spans)
        say(f"{number + 1}/{len(cells)} {_line(cell, figures)}")
        measured[cell.name] = asdict(figures)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"machine": machine(), "cells": measured}
        path.write_text(json.dumps(body, indent=1) + "\n")
    report(measured, path)


def measure(cell: Cell, spans: Path | None = None) -> CellFigures:
    """One cell, from nothing to nothing. ``spans``: a folder for what its services record."""
    flags = flags_of(cell)
    if spans is not None:
        flags = recording(flags, spans / cell.name.replace("/", "-").replace(" ", "-"))
    with tempfile.TemporaryDirectory(prefix="specedge-paper-") as run_dir:
        outcome = asyncio.run(run_cell(Path(run_dir), flags))
    return figures_of(cell, outcome)


def _line(cell: Cell, figures: CellFigures) -> str:
    return (
        f"{cell.name}: {figures.tokens_per_s:.1f} tok/s, {figures.usd:.1f} $/M, "
        f"V {figures.verify_ms:.1f} D {figures.draft_ms:.1f} tau {figures.tokens_per_round:.2f} "
        f"hits {figures.hit_rate:.2f} busy {figures.busy:.3f} fill {figures.fill:.2f}"
    )


def _load(path: Path) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = json.loads(path.read_text())["cells"]
    return loaded


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks paper", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, and batch 1 and 4 only")
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--keep", action="store_true", help="add to what is in the file already")
    parser.add_argument("--report", action="store_true", help="measure nothing; tables and plots")
    parser.add_argument(
        "--spans", type=Path, help="folder for what services record, for `specedge trace`"
    )
    parser.add_argument("--out", default=str(OUT / "paper.json"), help="where to")
    return parser
