"""A sweep as a picture: throughput, time per token and batch fill over what was varied.

matplotlib is not among the service's dependencies: it is imported when a picture is asked for.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specedge.errors import InvalidRequest
from specedge_scheduler.sim.sweeps import Run

PANELS = (
    ("tokens/s", "tokens_per_s"),
    ("ms per token, median", "ms_per_token_p50"),
    ("rounds per step", "rounds_per_step"),
)


def draw(runs: Sequence[Run], file: Path) -> None:
    """A PNG: the last varied field along the axis, a line for each combination of the others.
    Raises InvalidRequest if matplotlib is not installed."""
    try:
        from matplotlib import pyplot
    except ImportError:
        message = "pictures need matplotlib: pip install matplotlib"
        raise InvalidRequest(message, field="plot") from None
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(4.5 * len(PANELS), 3.6))
    for axis, (title, field) in zip(axes, PANELS, strict=True):
        _panel(axis, runs, title, field)
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _panel(axis: Any, runs: Sequence[Run], title: str, field: str) -> None:
    lines: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for run in runs:
        *others, along = [str(value) for value in run.varied.values()] or ["all"]
        lines[" ".join(others) or title].append((along, getattr(run.figures, field)))
    for label, points in lines.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=label)
    name = list(runs[0].varied)[-1] if runs and runs[0].varied else ""
    axis.set_xlabel(name)
    axis.set_title(title)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
