"""Shows what was measured, to people and to scripts."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from specedge.lossless.comparison import Divergence, Report
from specedge.lossless.modes import what_was_missing

_HEADERS = ("temp.", "dtype", "prompts", "equal", "tokens", "a round", "differ")


def is_lossless(reports: Sequence[Report]) -> bool:
    """Whether the check holds: in fp32 no token may differ; other dtypes are only measured."""
    return all(report.dtype != "fp32" or not report.divergences for report in reports)


def not_shown(reports: Sequence[Report]) -> list[str]:
    """Modes that were asked for and did not happen, with why: of these nothing is known."""
    missing = []
    for mode, group in groupby(reports, key=lambda report: report.mode):
        if mode is not None:
            what = what_was_missing(mode, [report.work for report in group])
            missing += [f"mode {mode}: {what}"] if what is not None else []
    return missing


def as_json(reports: Sequence[Report]) -> dict[str, Any]:
    """All of it, for scripts: whether every token was equal, and whether the check holds, which
    asks that of fp32 only."""
    return {
        "lossless": not any(report.divergences for report in reports),
        "holds": is_lossless(reports),
        "not_shown": not_shown(reports),
        "runs": [report.as_json() for report in reports],
    }


def show(reports: Sequence[Report], console: Console) -> None:
    """A row a mode and temperature (prompts, how many of them equal, tokens compared, tokens a
    round, first differences a token), then each first divergence with its gap."""
    table = Table(title="The system against the plain decoder")
    has_modes = any(report.mode is not None for report in reports)
    if has_modes:
        table.add_column("mode", no_wrap=True)
    for header in _HEADERS:
        table.add_column(header, justify="right")
    for report in reports:
        cells = _cells(report)
        table.add_row(*([report.mode or "", *cells] if has_modes else cells))
    console.print(table)
    for report in reports:
        for divergence in report.divergences:
            console.print(_describe(report, divergence), markup=False)
    for what in not_shown(reports):
        console.print(what, style="bold red", markup=False)
    if not is_lossless(reports):
        console.print("In fp32 every token should be equal.", style="bold red")


def _cells(report: Report) -> list[str]:
    return [
        f"{report.temperature:g}",
        report.dtype,
        str(report.prompts),
        str(report.equal),
        str(report.tokens),
        f"{report.work.tokens_per_round:.2f}",
        f"{report.divergence_rate:.2e}" if report.divergences else "0",
    ]


def _describe(report: Report, divergence: Divergence) -> str:
    gap = "unknown" if divergence.logit_gap is None else f"{divergence.logit_gap:.3g}"
    mode = "" if report.mode is None else f"{report.mode}, "
    return (
        f"{mode}temperature {report.temperature:g}, prompt {divergence.prompt + 1}: "
        f"first difference at generated token {divergence.index + 1}: "
        f"expected {divergence.expected}, emitted {divergence.emitted}, logit gap {gap}"
    )
