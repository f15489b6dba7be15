"""Where the command writes: results to stdout, everything said on the way to stderr."""

import logging
import sys

import structlog
from rich.console import Console

from specedge.cli.failure import CommandFailed


def out() -> Console:
    """For results. Follows NO_COLOR and whether stdout is a terminal."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """For progress, notices and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def quiet_logs() -> None:
    """Of the library's own logs only warnings are for the person at the command, on stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def report(failure: CommandFailed) -> None:
    """Say on stderr what went wrong and what to do."""
    console = err()
    console.print("[bold red]error:[/] ", end="")
    console.print(str(failure), markup=False)
    if failure.hint:
        console.print(failure.hint, markup=False, style="dim")
