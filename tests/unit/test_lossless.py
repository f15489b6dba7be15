"""The measurement of losslessness: which prompts, what counts as a difference, what is said."""

from pathlib import Path

import pytest

from specedge.errors import InvalidRequest
from specedge.lossless.comparison import Divergence, Outcome, Report, first_difference
from specedge.lossless.prompts import BUILT_IN, choose_prompts
from specedge.lossless.report import is_lossless

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
    fp32 = Report(0.0, "fp32", (EQUAL, DIVERGED))
    bf16 = Report(0.0, "bf16", (EQUAL, DIVERGED))

    assert not is_lossless([fp32])
    assert is_lossless([bf16])
    assert bf16.as_json()["divergence_rate"] == 1 / 74
    assert bf16.as_json()["prompts_equal"] == 1
