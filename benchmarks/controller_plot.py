"""The controller's grid as a picture: a panel a drafter, every fixed setting a dot."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from benchmarks.controller_grid import Cell


def plot(cells: "Sequence[Cell]", source: str, path: Path) -> None:
    """Write the PNG: a row a device."""
    devices = list(dict.fromkeys(cell.device for cell in cells))
    speeds = sorted({cell.slowness for cell in cells})
    figure, axes = pyplot.subplots(
        len(devices), len(speeds), figsize=(9, 3.2 * len(devices)), sharey="row", squeeze=False
    )
    for axis_row, device in zip(axes, devices, strict=True):
        for axis, slowness in zip(axis_row, speeds, strict=True):
            _panel(axis, [c for c in cells if (c.device, c.slowness) == (device, slowness)])
            drafter = "drafter at full speed" if slowness == 1 else f"drafter at 1/{slowness:g}"
            axis.set_title(f"{device}, {drafter}", fontsize=9)
        axis_row[0].set_ylabel("tokens per second")
        axis_row[0].set_ylim(bottom=0)
    axes[0][-1].legend(fontsize=7)
    figure.suptitle(f"Trace: {source}. Grey dots: fixed settings", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _panel(axis: Any, cells: "Sequence[Cell]") -> None:
    where = list(range(len(cells)))
    for at, cell in zip(where, cells, strict=True):
        speeds = [outcome.tokens_per_s for outcome in cell.fixed.values()]
        axis.plot([at] * len(speeds), speeds, ".", color="0.75", markersize=4)
    best = [cell.fixed[cell.best].tokens_per_s for cell in cells]
    own = [cell.controller.tokens_per_s for cell in cells]
    plain = [cell.fixed["plain"].tokens_per_s for cell in cells]
    axis.plot(where, plain, "--", color="tab:gray", label="plain")
    axis.plot(where, best, "_", color="black", markersize=20, label="best fixed setting")
    axis.plot(where, own, "o-", color="tab:blue", markersize=4, label="controller")
    for at, cell in zip(where, cells, strict=True):
        axis.annotate(
            f"{cell.best}\n{cell.best_share:.0%}",
            (at, max(best[at], own[at])),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=7,
        )
    axis.set_xticks(where, [f"{cell.round_trip_ms:g} ms" for cell in cells], fontsize=8)
    axis.margins(x=0.15, y=0.25)
