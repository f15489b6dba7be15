"""Commands keep models and logs where services keep theirs."""

import subprocess
from pathlib import Path

import pytest

from specedge.cli.cache import cache_dir
from specedge.cli.failure import CommandFailed
from specedge.cli.lossless import LosslessOptions, run_verify_lossless
from specedge.cli.run_folder import run_folder
from specedge.cli.stack import StackOptions
from specedge.service.settings import ServiceSettings, load_settings

CHECK = LosslessOptions(1, 1, None, "http://edge", "fp32", (0.0,), 1, 1, 1, None, False, "adaptive")


@pytest.mark.parametrize("chosen", ["", "~/models", "/srv/models"])
def test_a_command_takes_the_folder_that_services_take(
    chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECEDGE_CACHE_DIR", chosen)

    assert cache_dir().expanduser() == load_settings(ServiceSettings, {}).cache_dir


def test_a_run_keeps_its_logs_in_the_cache_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECEDGE_CACHE_DIR", str(tmp_path))

    with run_folder() as mine:
        assert mine.parent == tmp_path / "runs"


def test_where_no_logs_can_be_kept_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPECEDGE_CACHE_DIR", str(tmp_path / "file"))

    with pytest.raises(CommandFailed, match="logs cannot be kept") as failure, run_folder():
        pass

    assert "SPECEDGE_CACHE_DIR" in failure.value.hint


def test_who_has_no_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)

    with pytest.raises(CommandFailed, match="home directory"), run_folder():
        pass


def test_what_measures_finds_models_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("SPECEDGE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)

    run_verify_lossless(CHECK, StackOptions())

    [command] = asked
    assert command[command.index("--cache-dir") + 1] == str(tmp_path)
