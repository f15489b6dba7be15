"""A drafter's folder may say how far it can be trusted, so that its first round is good."""

from pathlib import Path

import numpy as np
import pytest

from specedge.engine.drafters import CALIBRATION, load_tally, save_tally
from specedge.errors import ModelUnusable
from specedge.tree.calibration import Calibration, Outcomes, Tally

SCORE = np.log(np.array([[0.5]], dtype=np.float32))
DEPTH = np.ones(1, dtype=np.int32)


def taught() -> Tally:
    tally = Tally()
    outcomes = Outcomes(
        np.repeat(SCORE[0], 100),
        np.zeros(100, np.int32),
        np.ones(100, np.int32),
        np.ones(100, bool),
    )
    Calibration(tally).observe(outcomes)
    return tally


def test_a_drafter_starts_with_what_its_folder_tells(tmp_path: Path) -> None:
    save_tally(taught(), tmp_path)

    tally = load_tally(str(tmp_path), "any-target")

    assert Calibration(tally).accept(SCORE, DEPTH)[0, 0] > 0.85


@pytest.mark.parametrize("name", ["prompt-lookup", "none", "some/hub-name"])
def test_where_nothing_is_told_nothing_is_known(name: str) -> None:
    assert load_tally(name, "any-target").as_json()["cells"] == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"layout": 1}', '{"cells": [[1]]}'])
def test_nonsense_is_refused_or_of_no_use_but_never_believed(tmp_path: Path, content: str) -> None:
    (tmp_path / CALIBRATION).write_text(content)

    try:
        tally = load_tally(str(tmp_path), "any-target")
    except ModelUnusable as error:
        assert CALIBRATION in str(error)
    else:
        assert tally.as_json()["cells"] == []


def test_counts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    body = (tmp_path / CALIBRATION, taught().as_json())
    body[1]["cells"][0][2] = 1e9
    body[0].write_text(str(body[1]).replace("'", '"'))

    with pytest.raises(ModelUnusable, match=CALIBRATION):
        load_tally(str(tmp_path), "any-target")
