"""What `simulate`, `trace` and `distill` tell a person before, after, and in their --help."""

import sys
from pathlib import Path

import orjson
import pytest

from specedge.distill.flags import read_flags
from specedge.distill.model_card import _took
from specedge.errors import InvalidRequest
from specedge.tracing.merging import read_all
from specedge_scheduler.sim import __main__ as simulate

SCENARIO = {"duration_s": 1, "edges": [{"count": 1}]}


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    """A file that can be simulated."""
    file = tmp_path / "scenario.yaml"
    file.write_bytes(orjson.dumps(SCENARIO))
    return str(file)


@pytest.mark.parametrize(("flag", "name"), [("--json", "x.json"), ("--plot", "x.png")])
def test_a_file_that_cannot_be_written_is_told_of_before_the_simulation(
    flag: str,
    name: str,
    scenario: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / name
    place.symlink_to(tmp_path / "no folder" / name)
    monkeypatch.setattr(simulate, "run_all", lambda *_: pytest.fail("this would be lost"))

    assert simulate.main([scenario, flag, str(place)]) == 2

    assert capsys.readouterr().err == f"{place}: No such file or directory\n"


@pytest.mark.parametrize("held", [None, b"figures of an earlier run"])
def test_a_simulation_that_fails_leaves_the_file_as_it_was(
    held: bytes | None, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    figures = tmp_path / "figures.json"
    if held is not None:
        figures.write_bytes(held)
    monkeypatch.setattr(simulate, "run_all", interrupt)

    simulate.main([scenario, "--json", str(figures)])

    assert (figures.read_bytes() if figures.exists() else None) == held


def test_an_empty_file_of_spans_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "edge.jsonl").touch()

    with pytest.raises(InvalidRequest, match=r"edge\.jsonl holds no spans: it is empty"):
        read_all([tmp_path])


def test_help_of_distilling_tells_defaults_and_none_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["distill", "--help"])

    with pytest.raises(SystemExit):
        read_flags()

    said = capsys.readouterr().out
    assert "default: 8192" in said
    assert "default: None" not in said
    assert "default: False" not in said


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.3, "12 seconds"), (89.0, "89 seconds"), (5760.0, "96 minutes")]
)
def test_a_card_says_how_long_a_short_training_took(seconds: float, said: str) -> None:
    assert _took(seconds) == said
