"""How the conversations begin that a drafter learns from."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specedge.distill.corpus import Conversation
from specedge.distill.openers import TASKS
from specedge.distill.openings import (
    LONGEST_PASSAGE,
    SHORTEST_PASSAGE,
    Opening,
    Openings,
    TurnFrame,
    ids_of,
)
from specedge.distill.self_sampling import GREEDY_SHARE
from specedge.errors import ModelUnusable
from tests.edge_world import END, make_tokenizer

SENTENCES = [f"The {word} ferry left at {hour} and came back." for hour in range(9, 13)
             for word in ("old", "new", "blue")]  # fmt: skip
PASSAGE = " ".join(SENTENCES)
SEEDS = [(5, number) for number in range(300)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def openings(tokenizer: Any) -> Openings:
    return openings_of(tokenizer)


def openings_of(tokenizer: Any) -> Openings:
    stop_ids = {tokenizer.convert_tokens_to_ids(END)}
    return Openings(tokenizer, TurnFrame.of(tokenizer), stop_ids)


def answered(tokenizer: Any, opening: Opening, answer: str, *, ended: bool = True) -> Conversation:
    prompt = [*opening.token_ids, *TurnFrame.of(tokenizer).between]
    end = [tokenizer.convert_tokens_to_ids(END)] if ended else []
    tokens = np.array([*prompt, *ids_of(tokenizer, answer), *end], dtype=np.int32)
    nothing = np.zeros((0, 4), dtype=np.int32)
    has_next = np.zeros(len(tokens), dtype=np.bool_)
    return Conversation(tokens, len(prompt), True, has_next, nothing, nothing.astype(np.float16))


def followers(openings: Openings, tokenizer: Any, answer: str, *, ended: bool) -> list[Opening]:
    firsts = [openings.fresh(seed) for seed in SEEDS]
    found = [openings.after(answered(tokenizer, one, answer, ended=ended), one) for one in firsts]
    return [one for one in found if one is not None]


def test_turns_stand_in_the_frame_that_the_template_puts_around_them(tokenizer: Any) -> None:
    frame = TurnFrame.of(tokenizer)
    texts = ["What is it?", "A ferry.", "Whose?"]
    roles = ["user", "assistant", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    said = [ids_of(tokenizer, text) for text in texts]
    ids = [*frame.before, *said[0], *frame.between, *said[1], *frame.again, *said[2]]
    assert tokenizer.decode([*ids, *frame.between]) == whole


def test_a_template_that_knows_one_turn_only_has_no_second(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.chat_template = (
        "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
        "U: {{ messages[0].content }} A: "
    )
    frame = TurnFrame.of(tokenizer)

    assert frame.before and frame.between and not frame.again


def test_a_template_that_drops_the_users_text_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.chat_template = "nothing"
    with pytest.raises(ModelUnusable):
        TurnFrame.of(tokenizer)


def test_without_a_template_all_is_answer(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.chat_template = None
    openings = openings_of(tokenizer)
    first = openings.fresh((1,))

    assert first.is_asked
    assert openings.after(answered(tokenizer, first, PASSAGE), first) is None


def test_what_follows_quotes_whole_sentences_of_the_answer_or_goes_on_behind_it(
    openings: Openings, tokenizer: Any
) -> None:
    found = followers(openings, tokenizer, PASSAGE, ended=True)
    frame = TurnFrame.of(tokenizer)
    kinds: Counter[str] = Counter()
    for one in found:
        turn = tokenizer.decode(one.token_ids[one.turn_from :])
        if one.turn_from > len(frame.before):
            kinds["goes on"] += 1
            assert turn == "" and not one.is_asked
            assert one.token_ids[-len(frame.again) :] == frame.again
            continue
        task = next(task for task in TASKS if is_about(turn, task))
        quoted = turn.removeprefix(task.before).removesuffix(task.after)
        kinds["sentence" if task.of_sentence else "passage"] += 1
        assert one.is_asked != task.asks
        if task.of_sentence:
            assert quoted in SENTENCES
        else:
            assert SHORTEST_PASSAGE <= len(quoted) <= LONGEST_PASSAGE
            assert PASSAGE.startswith(quoted) and quoted.endswith(".")
    assert min(kinds["goes on"], kinds["sentence"], kinds["passage"]) > len(SEEDS) // 20
    assert len(found) < len(SEEDS)  # some conversations stay alone


def is_about(turn: str, task: object) -> bool:
    before, after = task.before, task.after  # type: ignore[attr-defined]
    return bool(turn.startswith(before or "The") and turn.endswith(after or "."))


def test_an_answer_that_was_cut_is_not_gone_on_from(openings: Openings, tokenizer: Any) -> None:
    found = followers(openings, tokenizer, PASSAGE, ended=False)
    before = len(TurnFrame.of(tokenizer).before)

    assert found
    assert all(one.turn_from == before for one in found)


def test_an_answer_of_a_word_is_quoted_by_nobody(openings: Openings, tokenizer: Any) -> None:
    assert not followers(openings, tokenizer, "Yes.", ended=False)


def test_what_followed_is_followed_by_nothing(openings: Openings, tokenizer: Any) -> None:
    for one in followers(openings, tokenizer, PASSAGE, ended=True):
        assert openings.after(answered(tokenizer, one, PASSAGE), one) is None


def test_how_a_conversation_begins_says_nothing_of_how_it_goes_on(openings: Openings) -> None:
    greedy: dict[bool, list[bool]] = {True: [], False: []}
    for seed in SEEDS:
        first = openings.fresh(seed)
        is_unprompted = len(first.token_ids) == first.turn_from
        greedy[is_unprompted].append(np.random.default_rng(first.seed).random() < GREEDY_SHARE)

    assert all(0.3 < np.mean(of_a_kind) < 0.7 for of_a_kind in greedy.values())
