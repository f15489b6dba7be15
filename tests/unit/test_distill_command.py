"""The command of a drafter's model card makes the same drafter again."""

import shlex
import sys
from pathlib import Path

import pytest

from specedge.distill import __main__ as program
from specedge.distill.__main__ import _command
from specedge.distill.flags import read_flags
from specedge.distill.workspace import DistillPlan

# Of no influence on what is made, or of influence only through the plan.
NOT_SPELLED = {"work", "out", "cache_dir", "minutes", "only", "share", "device", "threads", "json"}
NOT_SPELLED |= {"layers"}
NOT_SPELLED |= {"start_from"}  # its name alone


def test_the_command_of_a_card_asks_for_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["--model", "some/model", "--work", "secret/scratch", "--out", "deep/my-drafter"]
    asked += ["--vocabulary", "77", "--corpus-tokens", "78", "--train-tokens", "79"]
    asked += ["--rate", "0.01", "--batch-tokens", "80", "--patience", "3", "--lanes", "5"]
    asked += ["--max-prompt", "6", "--max-answer", "7", "--piece", "12", "--held-out", "10"]
    asked += ["--seed", "11", "--minutes", "12", "--threads", "1", "--device", "cpu"]
    asked += ["--store", "int8"]
    asked += ["--start-from", "secret/earlier"]
    monkeypatch.setattr(sys, "argv", ["distill", *asked])
    arguments = read_flags()
    plan = DistillPlan(
        target="some/model",
        target_weights="",
        layers=(0, 2),
        start_from="secret/earlier",
        vocabulary=77,
        seed=11,
        peak_rate=0.01,
        batch_tokens=80,
        piece_conversations=12,
        held_out=10,
    )

    command = shlex.split(_command(arguments, plan))
    monkeypatch.setattr(sys, "argv", command[1:])
    again = read_flags()

    assert command[:2] == ["specedge", "distill"]
    for name, value in vars(arguments).items():
        if name not in NOT_SPELLED:
            assert getattr(again, name) == value, name
    assert again.start_from == Path("earlier")
    assert (again.layers, again.out, again.work) == ((0, 2), Path("my-drafter"), Path("DIR"))
    assert "secret" not in shlex.join(command)


@pytest.mark.parametrize(
    "flags",
    [
        ["--lanes", "0"],
        ["--piece", "0"],
        ["--seed", "-1"],
        ["--vocabulary", "0"],
        ["--held-out", "0"],
        ["--minutes", "-1"],
        ["--rate", "0"],
        ["--layers", "0,-1"],
        ["--share", "3/2"],
        ["--share", "half"],
        ["--layers", "x"],
        ["--lanes", "5e2"],
        ["--piece", "16", "--held-out", "17"],
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_its_flag(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["distill", "--work", "w", "--out", "o", *flags])
    with pytest.raises(SystemExit) as ended:
        read_flags()

    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (OSError(28, "No space left on device", "w/corpus/p.npz"), 1, "p.npz: No space left"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_full_disk_is_one_sentence_and_an_early_interruption_is_quiet(
    ending: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: object) -> None:
        raise ending

    monkeypatch.setattr(sys, "argv", ["distill", "--work", "w", "--out", "o"])
    monkeypatch.setattr(program, "quiet_logs", lambda: None)
    monkeypatch.setattr(program, "prepare_host", lambda *_: "cpu")
    monkeypatch.setattr(program, "_load", load)

    assert program.main() == code

    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) <= 2 and bool(told) == bool(said)
