"""A comparison as a picture: what the verifier yields, what a token takes, how deep trees hold."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.columns import Figures, Kind
from benchmarks.plan import Measured, Results

# Plain, server-only, SpecEdge with and without proactive drafting.
COLOURS = {"plain": "#9aa0a6", "server-only": "#5f8dd3", "on": "#d9762b", "off": "#eebf94"}
WIDTH_INCHES = 14.0
INCHES_PER_COLUMN, LEAST_INCHES = 0.5, 8.0


def draw(results: Results, path: Path) -> None:
    """Writes a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")  # a file, not a window
    from matplotlib import pyplot as plt

    columns = results.columns
    size = (WIDTH_INCHES, max(LEAST_INCHES, INCHES_PER_COLUMN * len(columns)))
    figure, axes = plt.subplots(2, 2, figsize=size, layout="constrained")
    _bars(axes[0][0], "tokens per verifier-busy-second", columns, lambda f: f.tokens_per_busy_s)
    _bars(axes[0][1], "milliseconds per token (line: p99)", columns, lambda f: f.time_per_token_ms)
    _marks(axes[0][1], columns, lambda f: f.time_per_token_p99_ms)
    _bars(axes[1][0], "tokens per second", columns, lambda f: f.tokens_per_s)
    _depths(axes[1][1], columns)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(
    axis: Any, title: str, columns: Sequence[Measured], read: Callable[[Figures], float]
) -> None:
    places = range(len(columns))
    colours = [COLOURS[_family(each)] for each in columns]
    axis.barh(places, [read(each.figures) for each in columns], color=colours)
    axis.set_yticks(places, [each.column.name for each in columns], fontsize=7)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=10)


def _marks(axis: Any, columns: Sequence[Measured], read: Callable[[Figures], float]) -> None:
    for place, each in enumerate(columns):
        axis.plot([read(each.figures)] * 2, [place - 0.4, place + 0.4], color="#444444")


def _depths(axis: Any, columns: Sequence[Measured]) -> None:
    for each in columns:
        if each.figures.reached:
            depths = range(1, len(each.figures.reached) + 1)
            label = f"{each.column.name} ({each.figures.acceptance_length:.2f})"
            axis.plot(depths, each.figures.reached, marker="o", markersize=3, label=label)
    axis.set_title("rounds whose path reached a depth (tokens a round)", fontsize=10)
    axis.set_xlabel("depth")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(0, 1)
    if axis.lines:
        axis.legend(fontsize=6)


def _family(measured: Measured) -> str:
    if measured.column.kind is not Kind.SPECEDGE:
        return str(measured.column.kind)
    return "on" if measured.column.proactive else "off"
