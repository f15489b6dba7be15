"""When the simulator counts as telling the truth, and when the machine was too slow to say."""

import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NOT_RUN, main
from benchmarks.against import BEYOND, LATE, SCENARIOS, Comparison, exit_code, slowness
from benchmarks.emulate import flags_of
from benchmarks.paper_stack import CellOutcome
from benchmarks.scrape import Reading
from specedge.profiles import DeviceProfile
from specedge.protocol.reports import StepReport
from specedge_scheduler.sim.__main__ import read_file
from specedge_scheduler.sim.scenario import read_scenario

DEVICE = DeviceProfile("own", "this test", fixed_ms=20.0, row_ms=1.0, prefill_token_ms=0.5)


def compared(
    throughput: float = 1.0, token_ms: float = 1.0, slow: float = 1.0, late_ms: float = 0.5
) -> Comparison:
    """The simulator's figures as shares of the emulation's."""
    emulated = {"tokens_per_s": 200.0, "ms_per_token_p50": 40.0, "late_p99_ms": late_ms}
    simulated = {"tokens_per_s": 200.0 * throughput, "ms_per_token_p50": 40.0 * token_ms}
    return Comparison("file", emulated, simulated, slow)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([compared(1.09, 0.92)], 0),
        ([compared(1.12)], BEYOND),
        ([compared(), compared(token_ms=0.88)], BEYOND),
        ([compared(slow=1.2)], LATE),
        ([compared(0.5, slow=1.2)], LATE),
        ([compared(0.5, late_ms=9.0)], LATE),
        ([compared(0.5), compared(slow=1.2)], BEYOND),
    ],
)
def test_the_exit_code_says_whether_the_worlds_agree(found: list[Comparison], code: int) -> None:
    assert exit_code(found, tolerance=0.1) == code


def test_an_emulation_without_a_figure_does_not_agree() -> None:
    found = compared()
    found.emulated["ms_per_token_p50"] = 0.0

    assert found.ratios == {"tokens_per_s": 1.0, "ms_per_token_p50": 0.0}
    assert exit_code([found], tolerance=0.1) == BEYOND


def test_steps_that_take_longer_than_their_device_says_show() -> None:
    def step(seq: int, ms: float) -> StepReport:
        return StepReport(seq=seq, rows=14, prefill=4, context=100, sessions=2, ms=ms)

    none = Reading({}, {})
    outcome = CellOutcome([], none, none, [step(0, 32.0), step(1, 48.0)], wall_s=1.0)

    assert slowness(outcome, DEVICE) == pytest.approx(80.0 / 64.0)


@pytest.mark.parametrize("which", ["against", "emulate"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("edges: [", "is not YAML"),
        ("edges: [{depth: deep}]", "edges.0.depth"),
        ("edges: [{leaves_s: 1}]", "edges that leave"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_a_sentence(
    which: str,
    content: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "world.yaml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(sys, "argv", ["benchmarks", which, str(file)])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == NOT_RUN
    told = capsys.readouterr().err
    assert told.startswith(f"{file}: ") and said in told


@pytest.mark.parametrize("file", sorted(SCENARIOS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_scenarios_can_be_emulated(file: object) -> None:
    assert flags_of(read_scenario(read_file(file))).fleets  # type: ignore[arg-type]
