"""The paper's table as pictures: throughput, dollars, and how near to the bound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper_figures import CellFigures, ratios

SYSTEMS = (
    ("plain", "", "plain", "#9aa0a6"),
    ("server-only", "", "server-only", "#e8a33d"),
    ("server-only", "twice the batch", "server-only, twice the batch", "#f2cc8f"),
    ("specedge", "static, fixed depth", "SpecEdge, static barrier", "#a8c5e2"),
    ("specedge", "greedy", "SpecEdge, greedy", "#6aa0d8"),
    ("specedge", "not proactive", "SpecEdge, just in time, not proactive", "#4a7fc1"),
    ("specedge", "", "SpecEdge, just in time", "#1d4e9e"),
)


def draw(figures: Sequence[CellFigures], path: Path) -> Path | None:
    """Three pictures beside one another; None without matplotlib, or without the 14B pair."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("Agg")
    from matplotlib import pyplot

    of_pair = [each for each in figures if each.cell["pair"] == "14b"]
    batches = sorted({each.cell["batch"] for each in of_pair})
    if not batches:
        return None
    chart, axes = pyplot.subplots(1, 3, figsize=(16, 5), layout="constrained")
    _bars(axes[0], of_pair, batches, lambda each: each.tokens_per_s / each.cell["batch"])
    axes[0].set_ylabel("tokens a second of the server, per slot")
    _bars(axes[1], of_pair, batches, lambda each: each.usd)
    axes[1].set_ylabel("$ per million tokens, edges charged")
    _bounds(axes[2], of_pair, batches)
    axes[0].legend(fontsize=8)
    chart.suptitle("Qwen3-14B with Qwen3-0.6B: A100-40, RTX 4090, round trip 14.07 ms (emulated)")
    chart.savefig(path, dpi=130)
    pyplot.close(chart)
    return path


def _bars(axes: Any, figures: Sequence[CellFigures], batches: Sequence[int], value: Any) -> None:
    width = 0.8 / len(SYSTEMS)
    for number, (system, variant, label, colour) in enumerate(SYSTEMS):
        found = {
            each.cell["batch"]: value(each)
            for each in figures
            if (each.cell["system"], each.cell["variant"]) == (system, variant)
        }
        at = [index + (number - len(SYSTEMS) / 2) * width for index in range(len(batches))]
        axes.bar(at, [found.get(b, 0.0) for b in batches], width, label=label, color=colour)
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_xlabel("batch")


def _bounds(axes: Any, figures: Sequence[CellFigures], batches: Sequence[int]) -> None:
    """Throughput against server-only, beside the bound."""
    baselines = {
        each.cell["batch"]: each
        for each in figures
        if (each.cell["system"], each.cell["variant"]) == ("server-only", "")
    }
    for system, variant, label, colour in SYSTEMS[3:]:
        found = [
            (each.cell["batch"], ratios(each, baselines[each.cell["batch"]]))
            for each in figures
            if (each.cell["system"], each.cell["variant"]) == (system, variant)
            and each.cell["batch"] in baselines
        ]
        found.sort(key=lambda one: one[0])
        at = [batches.index(batch) for batch, _ in found]
        axes.plot(at, [one.throughput for _, one in found], "o-", color=colour, label=label)
        if variant == "":
            axes.plot(at, [one.bound for _, one in found], "k--", label="bound")
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_xlabel("batch")
    axes.set_ylabel("throughput against server-only")
    axes.legend(fontsize=8)
