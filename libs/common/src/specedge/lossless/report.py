"""Shows what was measured, to people and to scripts."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from specedge.lossless.comparison import Divergence, Report


def is_lossless(reports: Sequence[Report]) -> bool:
    """Whether the check holds: in fp32 no token may differ; other dtypes are only measured."""
    return all(report.dtype != "fp32" or not report.divergences for report in reports)


def show(reports: Sequence[Report], console: Console) -> None:
    """A row a temperature, then each first divergence with its gap."""
    table = Table(title="The system against the plain decoder")
    for header in ("temperature", "dtype", "prompts", "equal", "tokens", "divergence a token"):
        table.add_column(header, justify="right")
    for report in reports:
        table.add_row(
            f"{report.temperature:g}",
            report.dtype,
            str(len(report.outcomes)),
            str(report.equal),
            str(report.tokens),
            f"{report.divergence_rate:.2e}" if report.divergences else "0",
        )
    console.print(table)
    for report in reports:
        for divergence in report.divergences:
            console.print(_describe(report, divergence), markup=False)
    if is_lossless(reports):
        return
    console.print("In fp32 every token should be equal.", style="bold red")


def _describe(report: Report, divergence: Divergence) -> str:
    gap = "unknown" if divergence.logit_gap is None else f"{divergence.logit_gap:.3g}"
    return (
        f"temperature {report.temperature:g}, prompt {divergence.prompt + 1}: "
        f"first difference at generated token {divergence.index + 1}: "
        f"expected {divergence.expected}, emitted {divergence.emitted}, logit gap {gap}"
    )
