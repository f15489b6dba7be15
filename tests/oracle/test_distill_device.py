"""Learning keeps to the device that the target is on. Shown without a GPU: torch's imitated tensors
have a device and no values, and refuse what a GPU would refuse, operations between two devices."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from specedge.distill import cut_head
from specedge.distill.batches import BatchMaker
from specedge.distill.corpus import Conversation
from specedge.distill.student import Student, StudentShape
from specedge.distill.training import batch_loss
from tests.oracle.tiny_models import VOCAB_SIZE, build

ELSEWHERE = "meta"
HEAD_TOKENS = np.arange(1, VOCAB_SIZE, 3, dtype=np.int32)


def conversation(length: int) -> Conversation:
    has_next = np.ones(length, dtype=np.bool_)
    has_next[-1] = False
    return Conversation(
        tokens=np.arange(3, 3 + length, dtype=np.int32),
        prompt_len=length // 2,
        is_greedy=True,
        has_next=has_next,
        next_id=np.tile(np.arange(4, dtype=np.int32), (length - 1, 1)),
        next_logprob=np.full((length - 1, 4), -2.0, dtype=np.float16),
    )


def built_elsewhere() -> PreTrainedModel:
    with torch.device(ELSEWHERE):
        return build("llama")


@pytest.fixture
def no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """It compares values, and an imitated tensor has none."""
    monkeypatch.setattr(cut_head, "_check", lambda *_: None)


@pytest.mark.usefixtures("no_check")
def test_a_step_of_learning_keeps_to_the_targets_device() -> None:
    corpus = [conversation(12), conversation(9)]
    maker = BatchMaker(corpus, HEAD_TOKENS, vocab_size=VOCAB_SIZE, batch_tokens=64)
    batch = maker.batch([0, 1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        target = built_elsewhere()
        student = Student(target, StudentShape((0, 3)), HEAD_TOKENS)

        loss = batch_loss(student, batch.to(student.device))
        loss.backward()

        assert student.device.type == loss.device.type == ELSEWHERE
        gradients = [tensor.grad for tensor in student.learned().values()]
        assert all(each is not None and each.device.type == ELSEWHERE for each in gradients)


@pytest.mark.usefixtures("no_check")
def test_what_stays_behind_is_found_out() -> None:
    maker = BatchMaker([conversation(12)], HEAD_TOKENS, vocab_size=VOCAB_SIZE, batch_tokens=64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        student = Student(built_elsewhere(), StudentShape((0, 3)), HEAD_TOKENS)

        with pytest.raises(RuntimeError, match="device"):
            batch_loss(student, maker.batch([0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_student_on_a_gpu_has_its_targets_logits() -> None:
    target = build("llama").to("cuda")
    token_ids = torch.randint(3, VOCAB_SIZE, (2, 20)).to("cuda")
    rows = torch.tensor([0, 7, 19, 20, 33], device="cuda")
    with torch.no_grad():
        wanted = target(input_ids=token_ids, use_cache=False).logits.flatten(0, 1)[rows]
        student = Student(target, StudentShape((0, 1, 2, 3)), HEAD_TOKENS)

        ours = student(token_ids, rows)

    head = torch.from_numpy(HEAD_TOKENS).long().to("cuda")
    torch.testing.assert_close(ours, wanted[:, head], atol=1e-3, rtol=0)
