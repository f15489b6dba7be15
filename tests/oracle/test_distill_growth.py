"""A drafter that begins as an earlier one says what that said, and can still learn everywhere."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from specedge.distill.growth import start_from
from specedge.distill.student import Student, StudentShape
from specedge.errors import ModelUnusable
from tests.oracle.tiny_models import VOCAB_SIZE, build

HEAD_TOKENS = np.arange(1, VOCAB_SIZE, 3, dtype=np.int32)
TOKENS = torch.arange(20)[None] * 7 % VOCAB_SIZE
ROWS = torch.tensor([0, 7, 19])


def student_of(target: PreTrainedModel, *layers: int) -> Student:
    return Student(target, StudentShape(layers), HEAD_TOKENS)


def an_earlier_one(target: PreTrainedModel, *layers: int) -> Student:
    """Trained a little, so that it is nowhere the target."""
    earlier = student_of(target, *layers)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in earlier.learned().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return earlier


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "phi3"])
def test_it_says_what_the_earlier_one_said(family: str) -> None:
    target = build(family)
    earlier = an_earlier_one(target, 0, 3)
    grown = student_of(target, 0, 1, 2, 3)

    start_from(grown, earlier.learned())

    with torch.no_grad():
        torch.testing.assert_close(grown(TOKENS, ROWS), earlier(TOKENS, ROWS), atol=1e-5, rtol=0)


def test_layers_that_add_nothing_yet_learn_at_once() -> None:
    target = build("llama")
    grown = student_of(target, 0, 1, 3)
    start_from(grown, an_earlier_one(target, 0, 3).learned())
    before = {name: one.detach().clone() for name, one in grown.learned().items()}
    optimizer = torch.optim.SGD(list(grown.learned().values()), lr=0.1)

    for _ in range(2):
        optimizer.zero_grad()
        grown(TOKENS, ROWS).log_softmax(dim=1)[:, 0].sum().backward()
        optimizer.step()

    still = [name for name, one in grown.learned().items() if torch.equal(one, before[name])]
    assert not still


def test_a_larger_drafter_has_no_room_in_a_smaller_one() -> None:
    target = build("llama")
    earlier = an_earlier_one(target, 0, 1, 3)
    with pytest.raises(ModelUnusable, match="3 layers has no room in 2"):
        start_from(student_of(target, 0, 3), earlier.learned())


def test_a_drafter_of_another_shape_is_named_by_its_tensor() -> None:
    target = build("llama")
    odd = {name: one[..., :-1] for name, one in an_earlier_one(target, 0, 3).learned().items()}
    with pytest.raises(ModelUnusable, match=r"layers\.0"):
        start_from(student_of(target, 0, 3), odd)


def test_products_in_bf16_are_for_learning_alone() -> None:
    target = build("llama")
    exact = student_of(target, 0, 3)
    narrow = Student(target, StudentShape((0, 3)), HEAD_TOKENS, learns_in_bf16=True)
    with torch.no_grad():
        assert torch.equal(narrow(TOKENS, ROWS), exact(TOKENS, ROWS))

    learning = narrow(TOKENS, ROWS)

    assert learning.dtype == torch.float32
    gap = (learning - exact(TOKENS, ROWS)).abs().mean() / exact(TOKENS, ROWS).std()
    assert 0 < gap < 0.05
