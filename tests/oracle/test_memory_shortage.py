"""A step that found no memory gives back what it had taken, whoever tells of its error; a model
that does not fit is told as such."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from specedge.engine import kv_cache
from specedge.engine.ports import ExpandAsked, StepItem
from specedge.engine.torch_draft import TorchDrafter
from specedge.engine.torch_target import TorchTarget
from specedge.engine.tree_model import TreeModel
from specedge.errors import ModelUnusable
from specedge.params import SamplingParams
from specedge.tree.token_tree import TokenTree
from tests.oracle.tiny_models import KV_BYTES, build, loaded, random_tokens


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list["weakref.ref[Tensor]"]:
    """The tensors that were there when, from now on, memory is short in every pass."""
    found: list[weakref.ref[Tensor]] = []

    def forward(self: TreeModel, *_: Any) -> Tensor:
        activation = torch.zeros(3)
        found.append(weakref.ref(activation))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TreeModel, "forward", forward)
    return found


@pytest.fixture
def drafter() -> TorchDrafter:
    return TorchDrafter(loaded(build("llama")), kv_bytes=KV_BYTES, num_slots=2)


@pytest.fixture
def target() -> TorchTarget:
    return TorchTarget(loaded(build("llama")), num_slots=1, kv_bytes=KV_BYTES)


TEXT = random_tokens(np.random.default_rng(1), 9)
TREE = TokenTree.root_only(int(TEXT[-1]))
ROOT = np.array([0], dtype=np.int32)


def test_of_a_step(target: TorchTarget, computed: list["weakref.ref[Tensor]"]) -> None:
    slot = target.lease(20)
    with pytest.raises(torch.OutOfMemoryError) as told:
        target.step([StepItem(slot, 0, TEXT, None, None)])

    assert [tensor() for tensor in computed] == [None]
    assert "out of memory" in str(told.value)


@pytest.mark.parametrize("how", ["alone", "together", "reading"])
def test_of_a_draft(how: str, drafter: TorchDrafter, computed: list["weakref.ref[Tensor]"]) -> None:
    session = drafter.open(TEXT, SamplingParams())
    with pytest.raises(torch.OutOfMemoryError) as told:
        if how == "alone":
            session.expand(TREE, ROOT)
        elif how == "together":
            drafter.expand_together([ExpandAsked(session, TREE, ROOT)])
        else:
            session.read(5)

    assert [tensor() for tensor in computed] == [None]
    assert "out of memory" in str(told.value)


def test_a_cache_that_does_not_fit_is_what_makes_a_model_unusable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def allocate(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kv_cache, "_allocate", allocate)

    with pytest.raises(ModelUnusable, match=f"no memory for {KV_BYTES} bytes of keys and values"):
        TreeModel(build("llama"), num_slots=1, kv_bytes=KV_BYTES)
