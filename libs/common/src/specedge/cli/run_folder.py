"""Where one run keeps its logs, and when those of old runs are forgotten."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from specedge.cli.cache import CACHE_VARIABLE, cache_dir
from specedge.cli.failure import CommandFailed

KEPT_FOR: Final = timedelta(days=7)


@contextlib.contextmanager
def run_folder(runs: Path | None = None) -> Iterator[Path]:
    """A new, private folder named after the moment and this process, for as long as the block
    lasts; it stays afterwards. Those of runs that have ended and long said nothing are removed.

    ``runs`` holds them all; None: the person's cache does. Raises CommandFailed where none can be
    made."""
    runs = runs or cache_dir() / "runs"
    now = datetime.now(UTC)
    name = f"{now:%Y%m%d-%H%M%S}-{os.getpid()}"
    try:
        runs = runs.expanduser()
        (folder := runs / name).mkdir(mode=0o700, parents=True)
    except (OSError, RuntimeError) as error:  # the latter: nobody's home is known
        raise CommandFailed(
            f"logs cannot be kept in {runs}: {error}",
            hint=f"{CACHE_VARIABLE} names another folder for models and logs.",
        ) from error
    with contextlib.ExitStack() as run:
        # Let go by the kernel however the run ends. Where the file system knows no locks, what the
        # run writes keeps its folder young.
        with contextlib.suppress(OSError):
            run.enter_context(_held(folder, fcntl.LOCK_SH))
        _forget_before(runs, now - KEPT_FOR)
        yield folder


def _forget_before(runs: Path, moment: datetime) -> None:
    for folder in runs.iterdir():
        # What has gone meanwhile was removed by a command that started with us.
        with contextlib.suppress(OSError):
            if _last_change(folder) < moment and not _is_in_use(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_in_use(folder: Path) -> bool:
    """Whether a run holds it. Where the file system knows no locks, nobody can: its age decides."""
    try:
        with _held(folder, fcntl.LOCK_EX):
            return False
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK


def _last_change(folder: Path) -> datetime:
    """Appending to a log changes the log's time, not its folder's."""
    newest_s = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return datetime.fromtimestamp(newest_s, UTC)


@contextlib.contextmanager
def _held(folder: Path, how: int) -> Iterator[None]:
    """Raises OSError where somebody else holds it, and where there is no such folder or lock."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
