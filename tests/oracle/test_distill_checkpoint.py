"""A training run goes on from its checkpoint, or says what is wrong with the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specedge.distill.evaluation import HeldOut
from specedge.distill.schedule import Schedule
from specedge.distill.student import Student, StudentShape
from specedge.distill.training import Trainer, TrainingPlan
from specedge.distill.workspace import CHECKPOINT
from specedge.errors import ModelUnusable
from tests.oracle.tiny_models import build


def trainer(folder: Path) -> Trainer:
    student = Student(build("llama"), StudentShape((0,)), np.arange(20, dtype=np.int32))
    return Trainer(
        student,
        batches=lambda: pytest.fail("nothing is trained here"),
        measure=lambda _: HeldOut(0.0, 0.0, 0.0, 1.0),
        plan=TrainingPlan(Schedule(100), measure_every_tokens=10),
        folder=folder,
    )


def keep_part(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:count])


def keep_keys(path: Path, keys: list[str]) -> None:
    stored: dict[str, Any] = torch.load(path)
    torch.save({key: stored[key] for key in keys}, path)


BREAKS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: keep_part(path, 0),
    "one byte": lambda path: keep_part(path, 1),
    "half": lambda path: keep_part(path, path.stat().st_size // 2),
    "text": lambda path: path.write_text("no checkpoint"),
    "a list": lambda path: torch.save([1, 2], path),
    "a part": lambda path: keep_keys(path, ["learned", "progress"]),
}


def test_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.progress.tokens = 7
    first.save()

    again = trainer(tmp_path)

    assert again.resume()
    assert again.progress.tokens == 7


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_checkpoint_is_named(kind: str, tmp_path: Path) -> None:
    trainer(tmp_path).save()
    BREAKS[kind](tmp_path / CHECKPOINT)

    with pytest.raises(ModelUnusable, match=CHECKPOINT):
        trainer(tmp_path).resume()
