"""A drafter in training computes what its target's parts compute together, for every family."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.cohere import CohereConfig
from transformers.models.granite import GraniteConfig

from specedge.distill.student import Student, StudentShape
from specedge.errors import ModelUnusable
from tests.oracle import tiny_models
from tests.oracle.tiny_models import VOCAB_SIZE, build

HEAD_TOKENS = np.arange(1, VOCAB_SIZE, 3, dtype=np.int32)
EVERY_LAYER = StudentShape((0, 1, 2, 3))
SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
# Both scale their logits, under names of their own.
SCALING: dict[str, Callable[[], Any]] = {
    "granite": lambda: GraniteConfig(**SHAPE, logits_scaling=7.0),
    "cohere": lambda: CohereConfig(**SHAPE, logit_scale=0.2),
}


def target_of(family: str, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    for name, make in SCALING.items():
        monkeypatch.setitem(tiny_models.CONFIGS, name, make)
    return build(family)


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", "gemma3", "gpt_neox", "gpt_oss", "phi3", "granite", "cohere"]
)
def test_a_student_of_every_layer_has_its_targets_logits(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_of(family, monkeypatch)
    token_ids = torch.randint(3, VOCAB_SIZE, (2, 20), generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([0, 7, 19, 20, 33])
    with torch.no_grad():
        wanted = target(input_ids=token_ids, use_cache=False).logits.flatten(0, 1)[rows]
        student = Student(target, EVERY_LAYER, HEAD_TOKENS)

        ours = student(token_ids, rows)

    torch.testing.assert_close(ours, wanted[:, torch.from_numpy(HEAD_TOKENS)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "granite", "gpt_neox"])
def test_its_layers_learn_and_its_target_stays_as_it_is(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_of(family, monkeypatch)
    parts = dict(target.named_modules())
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    student = Student(target, StudentShape((0, 3)), HEAD_TOKENS)
    optimizer = torch.optim.SGD(list(student.learned().values()), lr=0.1)

    student(torch.arange(20)[None], torch.arange(20)).log_softmax(dim=1)[:, 0].sum().backward()
    optimizer.step()

    assert all(isinstance(one, nn.Parameter) for one in student.learned().values())
    assert all(one.grad is not None for one in student.learned().values())
    assert {name: id(part) for name, part in target.named_modules()} == {
        name: id(part) for name, part in parts.items()
    }
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_its_layers_are_numbered_anew_and_its_targets_are_not(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbers(decoder: Any) -> list[set[int]]:
        return [
            {part.layer_idx for part in layer.modules() if hasattr(part, "layer_idx")}
            for layer in decoder.layers
        ]

    target = target_of(family, monkeypatch)
    student = Student(target, StudentShape((1, 3)), HEAD_TOKENS)

    assert numbers(student.backbone) == [{0}, {1}]
    assert numbers(target.get_decoder()) == [{0}, {1}, {2}, {3}]


def test_a_target_whose_logits_depend_on_more_than_its_last_state_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = build("llama")
    forward = type(target).forward

    def by_tokens(model: PreTrainedModel, input_ids: Tensor | None = None, **more: Any) -> Any:
        output = forward(model, input_ids, **more)
        if input_ids is not None:
            output.logits = output.logits + input_ids[..., None]
        return output

    monkeypatch.setattr(type(target), "forward", by_tokens)

    with pytest.raises(ModelUnusable, match="logits"):
        Student(target, EVERY_LAYER, HEAD_TOKENS)


def test_a_target_whose_layers_do_not_know_their_number_is_refused() -> None:
    target = build("llama")
    for layer in target.model.layers:
        del layer.self_attn.layer_idx

    with pytest.raises(ModelUnusable, match="number"):
        Student(target, EVERY_LAYER, HEAD_TOKENS)
