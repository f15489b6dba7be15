"""Where the command writes: results to stdout, everything said on the way to stderr."""

import sys

from rich.console import Console

from specedge.cli.failure import CommandFailed


def out() -> Console:
    """For results. Follows NO_COLOR and whether stdout is a terminal."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """For progress, notices and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def report(failure: CommandFailed) -> None:
    """Say on stderr what went wrong and what to do."""
    console = err()
    console.print("[bold red]error:[/] ", end="")
    console.print(str(failure), markup=False)
    if failure.hint:
        console.print(failure.hint, markup=False, style="dim")
