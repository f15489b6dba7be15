"""A simulation's results for people and programs: a table, and JSON. Computes nothing.

Of the table: gap between two steps (p99), fill in rounds per step, tokens per round, ms per token
(median and p99 over sessions), $ per million tokens.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from specedge_scheduler.sim.sweeps import Capacity, Most, Run

COLUMNS = (
    ("tok/s", "tokens_per_s", "{:.1f}"),
    ("busy", "busy_share", "{:.1%}"),
    ("gap ms", "gap_p99_ms", "{:.1f}"),
    ("fill", "rounds_per_step", "{:.2f}"),
    ("tokens", "tokens_per_round", "{:.2f}"),
    ("ms/token", "ms_per_token_p50", "{:.1f}"),
    ("p99", "ms_per_token_p99", "{:.1f}"),
    ("$/M", "usd_per_million", "{:.2f}"),
    ("refused", "refused", "{:d}"),
)


def show(runs: Sequence[Run], console: Console) -> None:
    """One row a variation; then the groups of edges, where there are several."""
    names = list(runs[0].varied) if runs else []
    table = Table(box=None, pad_edge=False)
    for title in headings(names):
        table.add_column(title, overflow="fold")
    for title, _, _ in COLUMNS:
        table.add_column(title, justify="right")
    for run in runs:
        varied = [str(run.varied[name]) for name in names]
        cells = [form.format(getattr(run.figures, field)) for _, field, form in COLUMNS]
        table.add_row(*varied, *cells)
    console.print(table)
    for run in runs:
        if len(run.figures.groups) > 1:
            _show_groups(run, console)


def headings(names: Sequence[str]) -> list[str]:
    """Of swept fields: their last parts, or as many more as tell them apart."""
    found = []
    for name in names:
        parts = name.split(".")
        ends = (parts[-length:] for length in range(1, len(parts) + 1))
        found.append(".".join(next((end for end in ends if _num_ending(names, end) == 1), parts)))
    return found


def _num_ending(names: Sequence[str], end: Sequence[str]) -> int:
    return sum(name.split(".")[-len(end) :] == end for name in names)


def show_capacity(capacity: Capacity, console: Console) -> None:
    """What an operator asked, in sentences."""
    say = console.print
    for sentence in capacity.assumed:
        say(f"for capacity, {sentence}")
    here, more = capacity.here, capacity.more
    if here.figures is None or more.figures is None:
        say(f"not even one edge gets a token every {capacity.objective_ms:g} ms here")
        return
    per_verifier = here.edges / capacity.verifiers
    say(
        f"one token in {capacity.objective_ms:g} ms: {_num_edges(here)} on "
        f"{capacity.verifiers} verifiers, {per_verifier:.1f} each; {here.figures.tokens_per_s:.0f} "
        f"tokens/s at {here.figures.usd_per_million:.2f} $ per million"
    )
    is_known = not (here.is_least or more.is_least)
    edges = f"{more.edges - here.edges:+d} edges" if is_known else _num_edges(more)
    say(
        f"one verifier more: {edges}, "
        f"{more.figures.tokens_per_s - here.figures.tokens_per_s:+.0f} tokens/s, "
        f"{more.figures.usd_per_million:.2f} $ per million"
    )


def _num_edges(most: Most) -> str:
    return f"{'at least ' if most.is_least else ''}{most.edges} edges"


def as_json(runs: Sequence[Run], capacity: Capacity | None = None) -> dict[str, object]:
    """Plain values."""
    told: dict[str, object] = {
        "runs": [{"varied": run.varied, "figures": run.figures.as_json()} for run in runs]
    }
    if capacity is not None:
        told["capacity"] = {
            "objective_ms": capacity.objective_ms,
            "verifiers": capacity.verifiers,
            "assumed": list(capacity.assumed),
            "edges": capacity.here.edges,
            "is_at_least": capacity.here.is_least,
            "edges_with_one_verifier_more": capacity.more.edges,
            "is_at_least_with_one_verifier_more": capacity.more.is_least,
            "figures": capacity.here.figures and capacity.here.figures.as_json(),
            "figures_with_one_verifier_more": capacity.more.figures
            and capacity.more.figures.as_json(),
        }
    return told


def _show_groups(run: Run, console: Console) -> None:
    table = Table(box=None, pad_edge=False, title=" ".join(map(str, run.varied.values())) or None)
    for title in ("edges", "sessions", "tokens/s", "ms/tok mean", "p50", "p99"):
        table.add_column(title, justify="left" if title == "edges" else "right")
    for name, group in run.figures.groups.items():
        values = [group.tokens_per_s, group.ms_per_token_mean]
        values += [group.ms_per_token_p50, group.ms_per_token_p99]
        table.add_row(name, str(group.sessions), *(f"{value:.1f}" for value in values))
    console.print(table)
