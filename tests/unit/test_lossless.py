"""The measurement of losslessness: which prompts, what counts as a difference, what is said."""

from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from specedge.cli.commands import app
from specedge.cli.edge_client import Answer
from specedge.cli.failure import EXIT_USAGE
from specedge.cli.lossless import stack_for
from specedge.cli.stack import EDGE_MODULE, VERIFIER_MODULE, StackOptions, plan_processes
from specedge.engine.reference import Decoded
from specedge.errors import InvalidRequest
from specedge.lossless.asking import Task
from specedge.lossless.comparison import Divergence, Outcome, Report, first_difference
from specedge.lossless.measuring import work_of
from specedge.lossless.modes import ALL, Mode, Work, parse_modes, what_was_missing
from specedge.lossless.plain_texts import PlainDecoding, PlainTexts
from specedge.lossless.prompts import BUILT_IN, choose_prompts
from specedge.lossless.report import as_json, is_lossless, not_shown
from specedge.service.settings import settings_from_command_line
from specedge_edge.config import EdgeSettings
from specedge_verifier.config import VerifierSettings

EQUAL = Outcome(0, 64, None)
DIVERGED = Outcome(1, 10, Divergence(1, 9, 5, 6, 0.25))


def test_there_are_enough_prompts_of_our_own_and_no_two_are_equal() -> None:
    assert len(BUILT_IN) >= 20
    assert len(set(choose_prompts(100, None))) == 100


def test_a_file_holds_one_json_string_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts"
    file.write_text('"one\\ntwo"\n\n"three"\n')

    assert choose_prompts(2, file) == ["one\ntwo", "three"]


@pytest.mark.parametrize("line", ["not json", "17", '""'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts"
    file.write_text(f'"fine"\n{line}\n')

    with pytest.raises(InvalidRequest, match="line 2"):
        choose_prompts(2, file)


@pytest.mark.parametrize(
    ("expected", "emitted", "index"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3], [1, 2], 2),
        ([1, 2], [1, 2, 3], 2),
        ([], [], None),
    ],
)
def test_the_first_difference_counts_missing_tokens(
    expected: list[int], emitted: list[int], index: int | None
) -> None:
    assert first_difference(expected, emitted) == index


def test_a_divergence_in_fp32_fails_the_check_and_in_bf16_is_a_figure() -> None:
    fp32 = Report.of((EQUAL, DIVERGED), temperature=0.0, dtype="fp32")
    bf16 = Report.of((EQUAL, DIVERGED), temperature=0.0, dtype="bf16")

    assert not is_lossless([fp32])
    assert is_lossless([bf16])
    shown = as_json([bf16])
    assert (shown["holds"], shown["lossless"]) == (True, False)
    assert bf16.as_json()["divergence_rate"] == 1 / 74
    assert bf16.as_json()["prompts_equal"] == 1


@pytest.fixture
def asked_of_measurement(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """Command and environment of each measurement that is started; none is."""
    asked: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], *, env: dict[str, str], check: bool) -> CompletedProcess[str]:
        asked.append((command, env))
        return CompletedProcess(command, 0)

    monkeypatch.setattr("specedge.cli.lossless.subprocess.run", run)
    return asked


def test_a_key_is_told_to_the_measurement_where_nobody_else_reads_it(
    asked_of_measurement: list[tuple[list[str], dict[str, str]]],
) -> None:
    flags = ["verify-lossless", "--url", "http://127.0.0.1:1", "--api-key", "sk-secret"]

    said = CliRunner().invoke(app, flags)

    ((command, environment),) = asked_of_measurement
    assert said.exit_code == 0, said.output
    assert not any("sk-secret" in part for part in command)
    assert environment["SPECEDGE_API_KEY"] == "sk-secret"


def test_a_temperature_that_no_edge_takes_is_refused_before_anything_starts(
    asked_of_measurement: list[tuple[list[str], dict[str, str]]],
) -> None:
    flags = ["verify-lossless", "--url", "http://127.0.0.1:1", "--temperature", "5"]

    said = CliRunner().invoke(app, flags)

    assert said.exit_code == EXIT_USAGE
    assert asked_of_measurement == []


def test_a_report_survives_being_written_down() -> None:
    work = Work(tokens=64, rounds=30, nodes_tried=200)
    report = Report.of(
        (EQUAL, DIVERGED), temperature=0.8, dtype="fp32", mode=Mode.COUPLED, work=work
    )

    assert Report.from_json(orjson.loads(orjson.dumps(report.as_json()))) == report


def test_all_modes_are_those_that_the_drafter_can_work_in() -> None:
    assert parse_modes(ALL, "a-model") == list(Mode)
    assert Mode.COUPLED not in parse_modes(ALL, "prompt-lookup")
    assert parse_modes(ALL, "none") == [Mode.HOSTED]
    assert parse_modes("hosted, drafted,hosted", "emulated") == [Mode.HOSTED, Mode.DRAFTED]


@pytest.mark.parametrize(
    ("modes", "drafter"), [("fast", "a-model"), ("coupled", "prompt-lookup"), ("drafted", "none")]
)
def test_a_mode_that_cannot_be_is_refused(modes: str, drafter: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_modes(modes, drafter)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_modes_system_is_one_that_its_services_understand(mode: Mode) -> None:
    options = stack_for(mode, StackOptions(model="m"), "some-drafter")
    plans = plan_processes(options, nats_url="nats://x:1", run_dir=Path("/run"))
    flags = {plan.module: plan.flags for plan in plans}

    edge = settings_from_command_line(EdgeSettings, flags[EDGE_MODULE])
    verifier = settings_from_command_line(VerifierSettings, flags[VERIFIER_MODULE])

    assert edge.adaptive == (mode is Mode.ADAPTIVE)
    assert edge.proactive == (mode in (Mode.ADAPTIVE, Mode.PROACTIVE, Mode.SENT_AHEAD))
    assert edge.ahead == (mode in (Mode.ADAPTIVE, Mode.SENT_AHEAD))
    assert edge.coupled == (mode in (Mode.ADAPTIVE, Mode.COUPLED))
    drafters = {Mode.HOSTED: ("none", "none"), Mode.HOSTED_DRAFTED: ("none", "some-drafter")}
    assert (edge.drafter, verifier.drafter) == drafters.get(mode, ("some-drafter", "none"))


DRAFTED = Work(tokens=90, rounds=30, nodes_tried=300)
HAPPENED = {
    Mode.ADAPTIVE: DRAFTED,
    Mode.DRAFTED: DRAFTED,
    Mode.PROACTIVE: Work(tokens=90, rounds=30, nodes_tried=300, passes_ahead=9),
    Mode.SENT_AHEAD: Work(tokens=90, rounds=30, nodes_tried=300, passes_ahead=9, ahead_used=5),
    Mode.COUPLED: DRAFTED,
    Mode.HOSTED: Work(tokens=90, rounds=90, hosted_tokens=90),
    Mode.HOSTED_DRAFTED: Work(tokens=90, rounds=40, hosted_tokens=90),
}


@pytest.mark.parametrize("mode", list(Mode))
def test_what_a_mode_is_known_by(mode: Mode) -> None:
    assert what_was_missing(mode, [HAPPENED[mode], Work()]) is None
    assert what_was_missing(mode, [Work()]) is not None


def test_a_mode_that_did_not_happen_is_not_shown_by_equal_tokens() -> None:
    # An edge whose drafter could not be loaded: the verifier generates alone.
    fell_back = Work(tokens=64, rounds=64, hosted_tokens=64)
    report = Report.of((EQUAL,), temperature=0.0, dtype="fp32", mode=Mode.PROACTIVE, work=fell_back)

    assert is_lossless([report])
    assert len(not_shown([report])) == 1
    assert not_shown([Report.of((EQUAL,), temperature=0.0, dtype="fp32")]) == []


def test_work_is_summed_over_answers_and_an_edge_that_says_nothing_did_nothing() -> None:
    metrics = {
        "specedge": {
            "rounds": 4,
            "hosted_tokens": 1,
            "drafting": {"passes_ahead": 3, "ahead_used": 2},
        },
        "speculative_decoding": {"num_draft_tokens": 50},
    }
    answers = [Answer("", token_ids=(1, 2), metrics=metrics), Answer("", token_ids=(3,))]

    assert work_of(answers) == Work(3, 4, 1, 50, 3, 2)


class Decoding(PlainDecoding):
    """A plain decoder that counts up from the prompt's last token."""

    def __init__(self) -> None:
        self.asked = 0

    def decode(self, prompt: np.ndarray, task: Task, *, with_scores: bool = False) -> Decoded:
        self.asked += 1
        return Decoded(prompt[-1] + np.arange(task.max_tokens, dtype=np.int32))


def test_a_text_is_decoded_plainly_once_for_all_runs(tmp_path: Path) -> None:
    decoding, loads = Decoding(), []
    prompt = np.array([4, 5], dtype=np.int32)

    def load() -> PlainDecoding:
        loads.append(1)
        return decoding

    first, task = PlainTexts(load, tmp_path / "plain"), Task("p", 0.8, 1, 3)
    assert first.tokens(prompt, task) == first.tokens(prompt, task) == [5, 6, 7]
    first.save()
    second = PlainTexts(load, tmp_path / "plain")

    assert second.tokens(prompt, task) == [5, 6, 7]
    assert (decoding.asked, len(loads)) == (1, 1)
    assert second.tokens(prompt, Task("p", 0.8, 2, 2)) == [5, 6]  # another seed: another text
    assert second.tokens(prompt + 1, task) == [6, 7, 8]
    assert (decoding.asked, len(loads)) == (3, 2)
