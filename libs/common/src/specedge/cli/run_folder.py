"""Where one run keeps its logs, and when those of old runs are forgotten."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

RUNS: Final = Path.home() / ".cache" / "specedge" / "runs"
KEPT_FOR: Final = timedelta(days=7)


def make_run_folder(runs: Path = RUNS) -> Path:
    """A new, private folder named after the moment and this process; old ones are removed."""
    now = datetime.now(UTC)
    folder = runs / f"{now:%Y%m%d-%H%M%S}-{os.getpid()}"
    folder.mkdir(mode=0o700, parents=True)
    _forget_before(runs, now - KEPT_FOR)
    return folder


def _forget_before(runs: Path, moment: datetime) -> None:
    for folder in runs.iterdir():
        if datetime.fromtimestamp(folder.stat().st_mtime, UTC) < moment:
            shutil.rmtree(folder, ignore_errors=True)
