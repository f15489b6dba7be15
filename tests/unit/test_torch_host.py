"""A device that is not there is told by name, before a model is loaded."""

import pytest
import torch

from specedge.engine.torch_host import prepare_host
from specedge.errors import ModelUnusable


def pretend(monkeypatch: pytest.MonkeyPatch, num_gpus: int) -> list[torch.device]:
    """The devices that became the thread's own, as they do."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    assert prepare_host("auto") == "cuda"

    pretend(monkeypatch, 0)
    assert prepare_host("auto") == "cpu"


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)

    assert prepare_host(name) == name


def test_torch_is_asked_about_the_gpu_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two GPUs the other one may not compute in bf16."""
    chosen = pretend(monkeypatch, 2)
    prepare_host("cuda:1")

    assert chosen == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    ("name", "num_gpus", "told"),
    [
        ("cuda", 0, "device cuda was asked for; CUDA devices that torch finds: 0"),
        ("cuda:2", 2, "device cuda:2 was asked for; CUDA devices that torch finds: 2"),
        ("gpu", 2, "torch knows no device 'gpu'"),
    ],
)
def test_a_device_that_is_not_there_is_told(
    name: str, num_gpus: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, num_gpus)

    with pytest.raises(ModelUnusable, match=told):
        prepare_host(name)
