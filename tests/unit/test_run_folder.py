"""Folders of runs: kept while a run lasts, forgotten long after it ended."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from specedge.cli.run_folder import KEPT_FOR, run_folder

LONG_AGO_S = 2 * KEPT_FOR.total_seconds()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def old_run(runs: Path, name: str = "old") -> Path:
    """What a run left that ended long ago."""
    folder = runs / name
    (folder / "broker").mkdir(parents=True)
    (folder / "broker" / "store").touch()
    (folder / "edge.log").touch()
    age(folder)
    return folder


def age(folder: Path) -> None:
    """As if nothing in it had changed for long."""
    then_s = time.time() - LONG_AGO_S
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then_s, then_s))


def test_a_run_that_ended_long_ago_is_forgotten(runs: Path) -> None:
    folder = old_run(runs)

    with run_folder(runs) as mine:
        assert not folder.exists()

    assert mine.is_dir()


def test_a_run_that_goes_on_keeps_its_folder_however_long_it_says_nothing(runs: Path) -> None:
    with run_folder(runs) as made:
        (made / "edge.nk").touch()
        age(made)
        running = made.rename(runs / "running")  # both may be of one second, and are of one process

        with run_folder(runs):
            assert (running / "edge.nk").exists()


def test_a_folder_is_as_old_as_the_last_line_of_its_logs(runs: Path) -> None:
    folder = old_run(runs)
    with (folder / "edge.log").open("a") as log:
        log.write("still here\n")

    with run_folder(runs):
        assert folder.exists()


def test_a_folder_that_another_command_removes_at_the_same_time_is_no_failure(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = old_run(runs)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([runs / "gone", folder]))

    with run_folder(runs):
        assert not folder.exists()


def test_where_there_are_no_locks_age_decides(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = old_run(runs)

    with run_folder(runs) as mine:
        assert not folder.exists()
        assert mine.exists()


def test_what_fails_during_a_run_is_not_hidden(runs: Path) -> None:
    with pytest.raises(OSError, match="disk is full"), run_folder(runs):
        raise OSError("disk is full")
