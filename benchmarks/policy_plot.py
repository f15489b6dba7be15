"""The policies' grid as a picture: a panel a round trip, tokens per second over batch sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from benchmarks.policy_grid import Cell


def plot(cells: "Sequence[Cell]", path: Path) -> None:
    """Write the PNG."""
    trips = sorted({cell.round_trip_ms for cell in cells})
    size = (3.2 * len(trips), 3.4)
    figure, rows = pyplot.subplots(1, len(trips), figsize=size, sharey=True, squeeze=False)
    axes = rows[0]
    for axis, trip in zip(axes, trips, strict=True):
        here = [cell for cell in cells if cell.round_trip_ms == trip]
        where = range(len(here))
        axis.plot(where, [c.static for c in here], "s--", color="0.5", label="barrier, best depth")
        axis.plot(where, [c.sized for c in here], "s:", color="0.7", label="barrier, best size too")
        axis.plot(where, [c.greedy for c in here], "o--", color="tab:orange", label="greedy, best")
        axis.plot(where, [c.jit for c in here], "o-", color="tab:blue", label="just in time")
        for at, cell in zip(where, here, strict=True):
            axis.annotate(
                f"{cell.over_static - 1:+.0%}",
                (at, cell.jit),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                fontsize=7,
            )
        axis.set_xticks(list(where), [str(cell.batch) for cell in here])
        axis.set_xlabel("rounds a step")
        axis.set_title(f"round trip {trip:g} ms", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.margins(y=0.15)
    axes[0].set_ylabel("tokens per second")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
