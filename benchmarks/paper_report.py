"""The paper's table, for people: every cell with what it was made of, the ratios beside their
bounds, and the paper's five figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.paper_figures import CellFigures, Ratios, bound, ratios, usd_at
from benchmarks.paper_plots import draw
from benchmarks.paper_sensitivity import sensitivity
from specedge.pairs import PAIRS

WIDTH: Final = 150
PAPER_RATIO: Final = 2.22
PAPER_DOLLARS: Final = 1.91
PAPER_LATENCY: Final = -0.1124


def report(cells: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Print all tables of what ``paper.json`` at ``path`` holds, and draw its plots beside it."""
    figures = [CellFigures(**dict(each)) for each in cells.values()]
    console = Console(width=WIDTH)
    for pair in dict.fromkeys(each.cell["pair"] for each in figures):
        of_pair = [each for each in figures if each.cell["pair"] == pair]
        console.print(_cells(pair, of_pair))
        console.print(_ratios(pair, of_pair))
    console.print(_five(figures))
    console.print(sensitivity())
    if drawn := draw(figures, path.with_suffix(".png")):
        console.print(f"[dim]{drawn}[/]")


def _cells(pair: str, figures: list[CellFigures]) -> Table:
    table = Table(title=f"{pair}: what was measured")
    for name in ("batch", "system"):
        table.add_column(name)
    for name in (
        *("tok/s", "$/M", "V ms", "rows", "D ms", "τ", "depth", "hits", "fill", "busy", "steps"),
        *("gap p99", "ms/tok", "p99", "CPU", "late"),
    ):
        table.add_column(name, justify="right")
    for each in sorted(figures, key=lambda one: one.cell["batch"]):
        table.add_row(
            str(each.cell["batch"]),
            " ".join((each.cell["system"], each.cell["variant"])),
            f"{each.tokens_per_s:.1f}",
            f"{each.usd:.1f}",
            f"{each.verify_ms:.1f}",
            f"{each.verify_rows:.0f}",
            f"{each.draft_ms:.1f}",
            f"{each.tokens_per_round:.2f}",
            f"{each.depth_used:.1f}",
            f"{each.hit_rate:.2f}" if each.cell["system"] == "specedge" else "",
            f"{each.fill:.2f}",
            f"{each.busy:.3f}",
            f"{each.in_steps:.3f}",
            f"{each.gap_p99_ms:.1f}",
            f"{each.token_ms['mean']:.1f}" if each.token_ms else "",
            f"{each.token_ms['p99']:.1f}" if each.token_ms else "",
            f"{max(each.cpu.values()):.2f}",
            f"{each.late_p99_ms:.1f}" if each.late_p99_ms else "",
        )
    return table


def _ratios(pair: str, figures: list[CellFigures]) -> Table:
    """Edges against server-only; against its best depth and twice the batch where measured."""
    table = Table(title=f"{pair}: SpecEdge against server-only, two edges per slot unless said")
    for name in ("batch", "system", "tok/s ×", "bound", "of it", "$ ×", "ms/tok"):
        table.add_column(name, justify="right" if name != "system" else "left")
    for name in ("× at its best depth", "× at twice the batch", "τ by depth"):
        table.add_column(name, justify="right")
    main: list[Ratios] = []
    for each in sorted(figures, key=lambda one: one.cell["batch"]):
        baseline = _baseline(figures, each)
        if each.cell["system"] != "specedge" or baseline is None:
            continue
        found = ratios(each, baseline)
        is_dialled = not each.cell["agreement"]  # τ by depth is known for the dial alone
        if each.cell["variant"] == "":
            main.append(found)
        table.add_row(
            str(each.cell["batch"]),
            each.cell["variant"] or f"{each.cell['policy']}, proactive",
            f"{found.throughput:.2f}",
            f"{found.bound:.2f}" if is_dialled else "",
            f"{found.share:.2f}" if is_dialled else "",
            f"{found.dollars:.2f}",
            f"{found.latency:+.1%}",
            *(
                _against(each, _find(figures, each.cell["batch"], "server-only", variant))
                for variant in ("its best depth", "twice the batch")
                if is_dialled
            ),
            *(() if is_dialled else ("", "")),
            " ".join(f"{share:.2f}" for share in each.reached[1:8]),
        )
    if main:
        mean = sum(one.throughput for one in main) / len(main)
        limit = sum(one.bound for one in main) / len(main)
        table.add_section()
        table.add_row("mean", "", f"{mean:.2f}", f"{limit:.2f}", f"{mean / limit:.2f}")
    return table


def _baseline(figures: list[CellFigures], each: CellFigures) -> CellFigures | None:
    """What agrees as often."""
    variant = each.cell["variant"] if each.cell["agreement"] else ""
    return _find(figures, each.cell["batch"], "server-only", variant)


def _against(edges: CellFigures, baseline: CellFigures | None) -> str:
    return "" if baseline is None else f"{edges.tokens_per_s / baseline.tokens_per_s:.2f}"


def _find(figures: list[CellFigures], batch: int, system: str, variant: str) -> CellFigures | None:
    for each in figures:
        cell = each.cell
        if (cell["batch"], cell["system"], cell["variant"]) == (batch, system, variant):
            return each
    return None


def _five(figures: list[CellFigures]) -> Table:
    """Each of the paper's five figures, at batch 1, and the best that the measured V, D and τ
    allow."""
    table = Table(title="the paper's figures, at batch 1")
    for name in ("figure", "paper", "measured", "at the bound", ""):
        table.add_column(name, justify="left" if name in ("figure", "") else "right")
    for name in ("14b", "32b"):
        of_pair = [each for each in figures if each.cell["pair"] == name]
        baseline = _find(of_pair, 1, "server-only", "")
        edges = _find(of_pair, 1, "specedge", "")
        if baseline is not None and edges is not None:
            _add_five(table, name, edges, baseline)
    return table


def _add_five(table: Table, name: str, edges: CellFigures, baseline: CellFigures) -> None:
    pair = PAIRS[name]
    assert pair.published is not None
    found = ratios(edges, baseline)
    limit = bound(pair, baseline, edges.depth_used)
    best_usd = usd_at(pair, baseline.tokens_per_s * limit, edges.cell["sessions"])
    per_slot = edges.cell["sessions"] / baseline.cell["sessions"]
    rows: list[tuple[str, float, float, float, bool]] = [
        ("throughput ×", PAPER_RATIO, found.throughput, limit, True),
        ("tokens per dollar ×", PAPER_DOLLARS, found.dollars, baseline.usd / best_usd, True),
        ("time per token", PAPER_LATENCY, found.latency, per_slot / limit - 1.0, False),
        ("$ per million tokens", pair.published.specedge_usd, edges.usd, best_usd, False),
    ]
    for what, paper, measured, at_bound, more_is_better in rows:
        table.add_row(
            f"{name}: {what}",
            f"{paper:.4g}",
            f"{measured:.4g}",
            f"{at_bound:.4g}",
            _verdict(paper, measured, at_bound, more_is_better=more_is_better),
        )


def _verdict(paper: float, measured: float, limit: float, *, more_is_better: bool) -> str:
    sign = 1.0 if more_is_better else -1.0
    if sign * measured >= sign * paper:
        return "met"
    return "beyond the bound" if sign * limit < sign * paper else "not met"
