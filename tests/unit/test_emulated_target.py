"""The emulated target: right tokens for right use, a violation for anything else."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from specedge.engine.emulated import EmulatedTarget, EmulatedText, emulated_continuation
from specedge.engine.ports import Choosing, StepItem
from specedge.errors import Busy, ProtocolViolation
from specedge.ids import Slot
from specedge.params import SamplingParams, StopRule
from specedge.profiles import DeviceProfile
from specedge.tree.token_tree import TokenTree
from tests.emulated_decoding import Decoding

PROMPT = [11, 12, 13, 14]
TEXT = EmulatedText(vocab_size=50, stop_every=12)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def round_item(
    slot: Slot, start: int = 0, tree: TokenTree | None = None, num_logprobs: int = -1
) -> StepItem:
    committed = ids(*PROMPT)
    choosing = Choosing(SamplingParams(), committed, len(PROMPT), num_logprobs=num_logprobs)
    tree = tree or TokenTree.root_only(PROMPT[-1])
    return StepItem(slot, start, committed[start:], tree, choosing)


def empty_draft(decoding: Decoding) -> TokenTree:
    return TokenTree.root_only(decoding.committed[-1])


@pytest.mark.parametrize("stop_ids", [frozenset({2}), frozenset[int]()])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.8, seed=4),
        SamplingParams(min_tokens=25),
    ],
    ids=["greedy", "sampled", "min_tokens"],
)
def test_plain_decoding_yields_the_continuation(
    params: SamplingParams, stop_ids: frozenset[int]
) -> None:
    decoding = Decoding(EmulatedTarget(TEXT), PROMPT, StopRule(stop_ids, 40), params)

    while not decoding.is_final:
        decoding.verify(empty_draft(decoding))

    assert decoding.generated == emulated_continuation(PROMPT, decoding.stop, params, TEXT)


def test_the_text_ends_now_and_then_but_not_before_min_tokens() -> None:
    stop = StopRule(frozenset({TEXT.stop_id}), 400)
    lengths = [
        len(emulated_continuation([seed], stop, SamplingParams(min_tokens=5), TEXT))
        for seed in range(40)
    ]

    assert min(lengths) >= 6
    assert len(set(lengths)) > 10
    assert max(lengths) < 400


def test_the_continuation_depends_on_every_token_before_it_and_on_the_seed() -> None:
    stop = StopRule(max_tokens=20)
    sampled = [SamplingParams(temperature=1.0, seed=seed) for seed in (1, 2)]

    texts = [
        emulated_continuation(PROMPT, stop),
        emulated_continuation([10, *PROMPT[1:]], stop),
        emulated_continuation(PROMPT, stop, sampled[0]),
        emulated_continuation(PROMPT, stop, sampled[1]),
        emulated_continuation(PROMPT, stop, text=EmulatedText(seed=1)),
    ]

    assert len({tuple(text) for text in texts}) == len(texts)


def test_chunked_prefill_chooses_what_a_whole_one_does() -> None:
    target = EmulatedTarget()
    whole, chunked = target.lease(8), target.lease(8)

    target.step([StepItem(chunked, 0, ids(*PROMPT[:3]))])
    one, two = target.step([round_item(whole), round_item(chunked, start=3)])

    assert one is not None
    assert two is not None
    assert one.choice.tolist() == two.choice.tolist()


def test_a_prefill_chunk_yields_no_choice() -> None:
    target = EmulatedTarget()

    assert target.step([StepItem(target.lease(8), 0, ids(1, 2, 3))]) == [None]


def test_keeping_the_wrong_path_changes_the_text() -> None:
    """So that a verifier that moves the wrong rows cannot pass for a right one."""
    target = EmulatedTarget()
    slot = target.lease(8)
    tree = TokenTree.from_parents([14, 5, 6], [-1, 0, 0])
    target.step([round_item(slot, tree=tree)])
    target.keep(slot, 4, ids(2))
    committed = ids(*PROMPT, 5, 7)  # but node 1 was committed

    choosing = Choosing(SamplingParams(), committed, 4)
    [out] = target.step([StepItem(slot, 5, ids(7), TokenTree.root_only(7), choosing)])

    assert out is not None
    assert out.choice[0] != EmulatedText().choice(
        EmulatedText().fold_all(committed), SamplingParams()
    )


def test_copied_rows_continue_like_their_source() -> None:
    target = EmulatedTarget()
    source, copy = target.lease(8), target.lease(1)
    target.step([StepItem(source, 0, ids(*PROMPT[:3]))])

    target.copy_rows(source, copy, 3)
    one, two = target.step([round_item(source, start=3), round_item(copy, start=3)])

    assert one is not None
    assert two is not None
    assert one.choice.tolist() == two.choice.tolist()


def test_logprobs_are_given_when_asked_for() -> None:
    target = EmulatedTarget()
    tree = TokenTree.from_parents([14, 5], [-1, 0])

    [out] = target.step([round_item(target.lease(8), tree=tree, num_logprobs=3)])

    assert out is not None
    assert out.logprobs is not None
    assert out.logprobs.chosen.shape == (2,)
    assert out.logprobs.token.shape == out.logprobs.logprob.shape == (2, 3)
    assert out.logprobs.token[:, 0].tolist() == out.choice.tolist()
    assert (np.diff(out.logprobs.logprob, axis=1) < 0).all()


def test_a_step_takes_the_time_its_profile_says() -> None:
    slept: list[float] = []
    profile = DeviceProfile("d", "test", 10.0, 1.0, 0.1, 0.5, kv_token_bytes=3)
    target = EmulatedTarget(profile=profile, sleep=slept.append)
    tree = TokenTree.from_parents([14, 5, 6], [-1, 0, 0])

    target.step([round_item(target.lease(8), tree=tree), StepItem(target.lease(8), 0, ids(1, 2))])

    # 4 chain rows and 2 nodes, 4 + 2 rows of context, 2 tokens of prefill.
    assert slept == [pytest.approx((10 + 6 + 0.6 + 1) / 1e3)]
    assert target.kv_use().bytes_held == 16 * 3


def test_slots_run_out_and_come_back() -> None:
    target = EmulatedTarget(slots=1)
    slot = target.lease(8)

    with pytest.raises(Busy):
        target.lease(8)
    target.release(slot)

    assert target.lease(8) == slot
    assert target.kv_use().slots_used == target.kv_use().slots == 1


def test_a_step_that_finds_no_memory_writes_nothing() -> None:
    target = EmulatedTarget(kv_tokens=10)
    small, large = target.lease(4), target.lease(4)

    with pytest.raises(Busy):
        target.step([round_item(small), StepItem(large, 0, ids(*range(7)))])

    with pytest.raises(ProtocolViolation, match="not all valid"):
        target.step([round_item(small, start=1)])
    target.step([round_item(small)])


def test_a_slot_grows_by_doubling() -> None:
    profile = DeviceProfile("d", "test", kv_token_bytes=1)
    target = EmulatedTarget(profile=profile)
    slot = target.lease(3)

    target.step([round_item(slot)])

    assert target.kv_use().bytes_held == 6


def test_rows_may_be_truncated_by_starting_earlier() -> None:
    target = EmulatedTarget()
    slot = target.lease(8)
    [first] = target.step([round_item(slot)])

    [again] = target.step([round_item(slot, start=2)])

    assert first is not None
    assert again is not None
    assert first.choice.tolist() == again.choice.tolist()


def broken_items(slot: Slot, other: Slot) -> dict[str, list[StepItem]]:
    good = round_item(slot)
    assert good.choosing is not None
    assert good.tree is not None
    cyclic = replace(good.tree, token=ids(14, 5), parent=ids(-1, 1), depth=ids(0, 1))
    shallow = replace(good.tree, token=ids(14, 5), parent=ids(-1, 0), depth=ids(0, 2))
    stale = replace(good.choosing, committed=ids(1, 2, 3, 14))
    short = replace(good.choosing, committed=ids(*PROMPT[1:]))
    return {
        "the same slot twice": [good, good],
        "a slot never leased": [replace(good, slot=Slot(99))],
        "rows that are not valid": [round_item(other, start=2)],
        "no chain": [replace(good, chain=ids())],
        "a tree without its choosing": [replace(good, choosing=None)],
        "a choosing without its tree": [replace(good, tree=None)],
        "a token outside the vocabulary": [StepItem(slot, 0, ids(32_000))],
        "a negative token": [StepItem(slot, 0, ids(-1))],
        "another root": [replace(good, tree=TokenTree.root_only(13))],
        "a cyclic parent array": [replace(good, tree=cyclic)],
        "a wrong depth": [replace(good, tree=shallow)],
        "a context that disagrees": [replace(good, choosing=stale)],
        "a context of another length": [replace(good, choosing=short)],
        "more prompt than context": [replace(good, choosing=replace(good.choosing, prompt_len=5))],
        "a context too long": [StepItem(slot, 0, np.zeros(40_000, dtype=np.int32))],
    }


@pytest.mark.parametrize("mistake", broken_items(Slot(0), Slot(1)))
def test_a_wrong_step_is_refused_and_changes_nothing(mistake: str) -> None:
    target = EmulatedTarget()
    slot, other = target.lease(8), target.lease(8)

    with pytest.raises(ProtocolViolation):
        target.step(broken_items(slot, other)[mistake])

    [out] = target.step([round_item(slot)])
    assert out is not None
    assert out.choice.tolist() == emulated_continuation(PROMPT, StopRule())


TREE = TokenTree.from_parents([14, 5, 6, 7], [-1, 0, 0, 1])


@pytest.mark.parametrize(
    ("base", "path"),
    [(3, []), (5, []), (4, [3]), (4, [2, 3]), (4, [0]), (4, [1, 3, 3]), (4, [9])],
)
def test_keeping_what_was_not_run_is_refused(base: int, path: list[int]) -> None:
    target = EmulatedTarget()
    slot = target.lease(8)
    target.step([round_item(slot, tree=TREE)])

    with pytest.raises(ProtocolViolation):
        target.keep(slot, base, ids(*path))

    target.keep(slot, 4, ids(1, 3))


def test_a_tree_is_kept_once_and_not_after_a_prefill_chunk() -> None:
    target = EmulatedTarget()
    slot = target.lease(8)
    target.step([round_item(slot, tree=TREE)])
    target.keep(slot, 4, ids())

    with pytest.raises(ProtocolViolation, match="no tree"):
        target.keep(slot, 4, ids())
    target.step([round_item(slot, start=3, tree=TREE)])
    target.step([StepItem(slot, 4, ids(1))])
    with pytest.raises(ProtocolViolation, match="no tree"):
        target.keep(slot, 5, ids())


def test_copying_rows_that_are_not_valid_is_refused() -> None:
    target = EmulatedTarget()
    source, copy = target.lease(8), target.lease(8)
    target.step([round_item(source)])

    with pytest.raises(ProtocolViolation, match="not valid"):
        target.copy_rows(source, copy, 5)
    with pytest.raises(ProtocolViolation, match="itself"):
        target.copy_rows(source, source, 2)


def test_a_slot_is_released_once() -> None:
    target = EmulatedTarget()
    slot = target.lease(8)
    target.release(slot)

    with pytest.raises(ProtocolViolation, match="not leased"):
        target.release(slot)


def test_the_engine_belongs_to_the_thread_that_used_it_first() -> None:
    target = EmulatedTarget()
    target.lease(8)
    raised: list[BaseException] = []

    def intrude() -> None:
        try:
            target.kv_use()
        except ProtocolViolation as violation:
            raised.append(violation)

    intruder = threading.Thread(target=intrude)
    intruder.start()
    intruder.join()

    assert len(raised) == 1
    assert target.kv_use().slots_used == 1
