"""Whether folders that a person named are there: better said before a system is started."""

import re
from pathlib import Path
from typing import Final

from specedge.cli.failure import EXIT_USAGE, CommandFailed
from specedge.cli.stack import StackOptions

# What a hub calls its models: a name, or whose and a name.
HUB_NAME: Final = re.compile(r"^\w[\w.-]*(/\w[\w.-]*)?$", re.ASCII)


def check_folders(options: StackOptions) -> None:
    """Raise CommandFailed for a model or drafter that can only be a folder, and is not there."""
    named = {
        "model": options.model,
        "drafter": options.drafter,
        "verifier-drafter": options.verifier_drafter,
    }
    for flag, name in named.items():
        if name and not HUB_NAME.match(name) and not Path(name).expanduser().is_dir():
            raise CommandFailed(f"--{flag}: there is no folder {name}", exit_code=EXIT_USAGE)
