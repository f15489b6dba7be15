"""What a benchmark yields: flat, documented figures, as a table and as JSON."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

OUT: Final = Path(__file__).parent / "out"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure means and what we want of it. ``at_most`` and ``at_least`` may be None."""

    meaning: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def text(self) -> str:
        """As shown beside the figure."""
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else ""

    def verdict(self, value: float) -> str:
        """A mark for readers; nothing follows from it."""
        if self.at_most is None and self.at_least is None:
            return ""
        met = (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )
        return "met" if met else "not met"


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """What the figures were taken on; the load average tells whether it was busy."""
    return {
        "machine_cpus": os.cpu_count(),
        "machine_load_1min": round(os.getloadavg()[0], 2),
        "machine_processor": platform.processor() or platform.machine(),
        "machine_python": platform.python_version(),
    }


def write(target: str, figures: Mapping[str, float], errors: Sequence[str]) -> Path:
    """The same figures as the table's, under the same flat keys, to ``out/<target>.json``."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{target}.json"
    body = {**figures, **machine(), "errors": list(errors)}
    path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
    return path


def show(target: str, figures: Mapping[str, float], goals: Mapping[str, Goal]) -> None:
    """The table: figures with goals first, in their own order, then what has none."""
    table = Table(title=f"{target} (load average {os.getloadavg()[0]:.2f})")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    with_goal = [key for key in goals if key in figures]
    for key in [*with_goal, *(key for key in figures if key not in goals)]:
        goal, value = goals.get(key, Goal("")), figures[key]
        name = f"{goal.meaning}\n[dim]{key}[/]" if goal.meaning else key
        table.add_row(name, f"{value:,.4g}", goal.text, goal.verdict(value))
    Console(width=100).print(table)
