"""The commands that turn into a program of their own, whose options are none of `specedge`'s.

Nothing of it is imported: this process becomes that one.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Final

import typer

from specedge.cli.failure import EXIT_USAGE, CommandFailed
from specedge.cli.stack import EDGE_MODULE, SCHEDULER_MODULE, VERIFIER_MODULE

LAUNCH: Final = "specedge.cli.launch"
CALLED_AS_VARIABLE: Final = "SPECEDGE_CALLED_AS"  # ``settings_from_command_line`` reads it
PROGRAMS: Final = {
    "distill": (
        "specedge.distill",
        "Make a drafter for any model from that model alone; all options are its own.",
    ),
    "simulate": (
        "specedge_scheduler.sim",
        "Run the real scheduler in virtual time, on edges and verifiers that a YAML file "
        "describes.",
    ),
    "scheduler": (
        SCHEDULER_MODULE,
        "Run a scheduler in the foreground; all options are its own.",
    ),
    "verifier": (VERIFIER_MODULE, "Run a verifier in the foreground; all options are its own."),
    "edge": (EDGE_MODULE, "Run an edge in the foreground; all options are its own."),
}
PASS_THROUGH: Final = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def add_programs(app: typer.Typer) -> None:
    """A command of ``app`` for each program."""
    for name, (module, text) in PROGRAMS.items():
        app.command(name, help=text, context_settings=PASS_THROUGH)(_command(name, module))


def _command(name: str, module: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        become(module, context.args, called_as=f"specedge {name}")

    return command


def become(module: str, arguments: list[str], *, called_as: str) -> None:
    """Turn this process into the program, so that signals and exit codes are the program's."""
    package = module.split(".")[0]
    if importlib.util.find_spec(package) is None:
        package = package.replace("_", "-")
        raise CommandFailed(
            f"{package} is not installed here",
            hint=f"pip install {package}",
            exit_code=EXIT_USAGE,
        )
    os.putenv(CALLED_AS_VARIABLE, called_as)  # which the next line hands on
    os.execv(sys.executable, [sys.executable, "-m", LAUNCH, module, *arguments])
