"""The controller's grid as a picture: a panel a drafter, every fixed setting a dot."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from benchmarks.controller_grid import Cell


def plot(cells: "Sequence[Cell]", source: str, path: Path) -> None:
    """Write the PNG."""
    speeds = sorted({cell.slowness for cell in cells})
    figure, axes = pyplot.subplots(1, len(speeds), figsize=(9, 3.6), sharey=True, squeeze=False)
    for axis, slowness in zip(axes[0], speeds, strict=True):
        row = [cell for cell in cells if cell.slowness == slowness]
        where = list(range(len(row)))
        for at, cell in zip(where, row, strict=True):
            speeds_there = [outcome.tokens_per_s for outcome in cell.fixed.values()]
            axis.plot([at] * len(speeds_there), speeds_there, ".", color="0.75", markersize=4)
        best = [cell.fixed[cell.best].tokens_per_s for cell in row]
        plain = [cell.fixed["plain"].tokens_per_s for cell in row]
        own = [cell.controller.tokens_per_s for cell in row]
        axis.plot(where, plain, "--", color="tab:gray", label="plain")
        axis.plot(where, best, "_", color="black", markersize=22, label="best fixed setting")
        axis.plot(where, own, "o-", color="tab:blue", label="controller")
        for at, cell in zip(where, row, strict=True):
            axis.annotate(
                f"{cell.best}\n{cell.best_share:.0%}",
                (at, max(best[at], own[at])),
                textcoords="offset points",
                xytext=(0, 7),
                ha="center",
                fontsize=7,
            )
        axis.set_xticks(where, [f"{cell.round_trip_ms:g} ms" for cell in row])
        axis.set_xlabel("round trip")
        axis.set_title("drafter at full speed" if slowness == 1 else f"at 1/{slowness:g}")
        axis.margins(x=0.15, y=0.2)
    axes[0][0].set_ylabel("tokens per second")
    axes[0][0].set_ylim(bottom=0)
    axes[0][-1].legend(fontsize=8)
    figure.suptitle(f"Trace: {source}. Grey dots: fixed settings", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
