"""A target that talks to itself: as many conversations at once as there is room for."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

from specedge.distill.corpus import Conversation
from specedge.distill.openings import Opening
from specedge.distill.self_sampling import SamplingPlan, SelfSampler
from specedge.engine.torch_model import identified
from specedge.errors import Busy
from tests.edge_world import make_tokenizer
from tests.oracle.tiny_models import build, plain_logits

# Of 4 layers, K and V of 2 heads of 8 in fp32.
ROW_BYTES = 4 * 2 * 2 * 8 * 4
PLAN = SamplingPlan(lanes=4, max_prompt_tokens=10, max_answer_tokens=60)
# Any conversation with its frame, as the cache rounds it.
LANE_ROWS = 128


def sampler_of(folder: Path, num_rows: int) -> SelfSampler:
    tokenizer = make_tokenizer(folder)
    loaded = identified(built(tokenizer), tokenizer, name="tiny")
    return SelfSampler(loaded, PLAN, kv_bytes=num_rows * ROW_BYTES)


def built(tokenizer: Any) -> PreTrainedModel:
    return build("llama", vocab_size=len(tokenizer))


def sampled(folder: Path, num_rows: int, count: int) -> tuple[list[Conversation], int]:
    """The first ``count`` conversations, and how many were under way at once at most."""
    sampler = sampler_of(folder, num_rows)
    most = 0
    forward = sampler._model.forward

    def count_spans(spans):  # type: ignore[no-untyped-def]
        nonlocal most
        most = max(most, len(spans))
        return forward(spans)

    sampler._model.forward = count_spans  # type: ignore[method-assign]
    return list(islice(sampler.sample([1, 2]), count)), most


def by_tokens(conversations: list[Conversation]) -> set[tuple[int, ...]]:
    return {tuple(one.tokens.tolist()) for one in conversations}


@pytest.mark.parametrize(("lanes_fit", "at_once"), [(1, 1), (3, 3), (9, 4)])
def test_so_many_conversations_are_under_way_as_have_room(
    lanes_fit: int, at_once: int, tmp_path: Path
) -> None:
    conversations, most = sampled(tmp_path, lanes_fit * LANE_ROWS, 6)

    assert most == at_once
    assert len(conversations) == 6
    assert all(np.flatnonzero(one.has_next).size == len(one.next_id) for one in conversations)


def test_what_is_said_does_not_depend_on_the_room(tmp_path: Path) -> None:
    little, _ = sampled(tmp_path, LANE_ROWS, 4)
    much, _ = sampled(tmp_path, 9 * LANE_ROWS, 8)

    assert by_tokens(little) <= by_tokens(much)


def test_without_room_for_one_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Busy):
        sampled(tmp_path, LANE_ROWS // 2, 1)


def test_a_question_about_a_long_text_is_written_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(tmp_path, 9 * LANE_ROWS)
    quoted = tuple(range(20, 60))  # longer than what the target writes of a turn
    opening = Opening((3,), quoted, turn_from=4, follows=True)
    monkeypatch.setattr(sampler._openings, "fresh", lambda seed: opening)
    sampler._turn_ends = frozenset()
    one = next(sampler.sample([1]))

    asked = one.prompt_len - len(quoted) - len(sampler._frame.between)
    assert asked == PLAN.max_prompt_tokens


@pytest.mark.parametrize("is_asked", [True, False])
def test_what_stands_before_is_context_and_what_the_target_writes_is_learned(
    is_asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(tmp_path, 9 * LANE_ROWS)
    ids = tuple(range(20, 60))
    opening = Opening((3,), ids, len(ids) - (20 if is_asked else 0), is_asked, follows=True)
    monkeypatch.setattr(sampler._openings, "fresh", lambda seed: opening)
    one = next(sampler.sample([1]))

    learned = np.flatnonzero(one.has_next)
    assert tuple(one.tokens[: len(ids)]) == ids
    first = one.prompt_len - 1 if is_asked else len(ids) - 1
    assert learned[0] == first
    assert np.all(np.diff(learned[one.is_answer]) == 1)
    # What is kept at the first and at the last place is what the model says after all before it.
    plain = built(sampler._tokenizer)
    for kept, place in ((0, learned[0]), (-1, learned[-1])):
        logits = plain_logits(plain, one.tokens[: place + 1])
        logprob = logits - np.logaddexp.reduce(logits.astype(np.float64))
        assert one.next_id[kept][0] == logits.argmax()
        np.testing.assert_allclose(
            one.next_logprob[kept], logprob[one.next_id[kept]], atol=5e-3, rtol=0
        )
