"""The parts of a distillation that need no model: what is stored, learned from, and when."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from specedge.distill.batches import BatchMaker
from specedge.distill.corpus import Conversation, num_tokens, piece_path, read_corpus, write_piece
from specedge.distill.evaluation import round_lengths
from specedge.distill.schedule import Schedule, has_stalled
from specedge.distill.vocabulary import frequent_tokens, token_mass
from specedge.distill.workspace import DistillPlan, Workspace
from specedge.errors import InvalidRequest, ModelUnusable


def conversation(length: int, seed: int) -> Conversation:
    rng = np.random.default_rng(seed)
    has_next = rng.random(length) < 0.7
    has_next[-1] = False
    count = int(has_next.sum())
    ids = np.stack([rng.permutation(50)[:4] for _ in range(count)]).astype(np.int32)
    logprob = np.sort(-rng.random((count, 4)) * 4, axis=1)[:, ::-1].astype(np.float16)
    tokens = rng.integers(0, 50, length, dtype=np.int32)
    return Conversation(tokens, length // 3, seed % 2 == 0, has_next, ids, logprob)


CONVERSATIONS = [conversation(length, seed) for seed, length in enumerate([9, 30, 12, 31, 5, 29])]


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_piece(piece_path(tmp_path, 1), CONVERSATIONS[:4])
    write_piece(piece_path(tmp_path, 12), CONVERSATIONS[4:])
    read = read_corpus(tmp_path)
    assert num_tokens(tmp_path) == sum(len(one.tokens) for one in CONVERSATIONS)
    for one, other in zip(read, CONVERSATIONS, strict=True):
        for name in ("tokens", "has_next", "next_id", "next_logprob"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert (one.prompt_len, one.is_greedy) == (other.prompt_len, other.is_greedy)


def test_half_a_piece_is_never_seen_and_a_broken_one_is_named(tmp_path: Path) -> None:
    (tmp_path / ".piece-00001.npz.7.npz").write_bytes(b"half")
    assert read_corpus(tmp_path) == []
    piece_path(tmp_path, 2).write_bytes(b"no zip")
    with pytest.raises(ModelUnusable, match="piece-00002"):
        read_corpus(tmp_path)


def test_every_epoch_has_every_conversation_once_and_little_padding() -> None:
    maker = BatchMaker(
        CONVERSATIONS, np.arange(50, dtype=np.int32), vocab_size=50, batch_tokens=64, seed=3
    )
    for epoch in range(3):
        batches = maker.epoch(epoch)
        assert sorted(index for batch in batches for index in batch) == list(range(6))
        assert batches == maker.epoch(epoch)
        for batch in batches:
            lengths = [len(CONVERSATIONS[index].tokens) for index in batch]
            assert max(lengths) * len(batch) <= 64
    assert maker.epoch(0) != maker.epoch(1)


def test_a_batch_holds_the_targets_probabilities_at_the_rows_they_belong_to() -> None:
    head = np.arange(0, 50, 2, dtype=np.int32)  # even tokens only
    maker = BatchMaker(CONVERSATIONS, head, vocab_size=50, batch_tokens=256)
    batch = maker.batch([1, 2])
    width = batch.token_ids.shape[1]
    row = 0
    for place, one in enumerate(CONVERSATIONS[1:3]):
        for nth, position in enumerate(np.flatnonzero(one.has_next)):
            assert int(batch.rows[row]) == place * width + position
            for column, (token, logprob) in enumerate(
                zip(one.next_id[nth], one.next_logprob[nth], strict=True)
            ):
                probability = float(batch.next_p[row, column])
                if token % 2:
                    assert probability == 0.0
                else:
                    assert head[int(batch.next_row[row, column])] == token
                    assert probability == pytest.approx(float(np.exp(np.float32(logprob))))
            row += 1
    assert row == len(batch.rows)


def test_the_head_speaks_of_the_likeliest_tokens_and_of_the_ends() -> None:
    mass = token_mass(CONVERSATIONS, 60)
    chosen = frequent_tokens(mass, 10, always=(59,))
    assert 59 in chosen
    assert list(chosen) == sorted(set(chosen.tolist()))
    left_out = np.setdiff1d(np.arange(60), chosen)
    assert mass[left_out].max() <= mass[np.setdiff1d(chosen, [59])].min()
    assert len(frequent_tokens(mass, 100, always=())) == 60


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(total_tokens=1000, peak_rate=1.0, warm_up=0.1, decay=0.3)
    rates = [schedule.rate(seen) for seen in range(0, 1000, 50)]
    assert rates[0] < 0.02
    assert rates[2:14] == [1.0] * 12
    assert all(earlier > later for earlier, later in pairwise(rates[14:]))
    assert schedule.rate(1200) > 0


@pytest.mark.parametrize(
    ("history", "stalled"),
    [([1.0, 1.1, 1.2], False), ([1.0, 1.3, 1.2, 1.3], True), ([1.0, 1.3, 1.2, 1.31], False)],
)
def test_training_has_stalled_when_nothing_beat_the_best(
    history: list[float], stalled: bool
) -> None:
    assert has_stalled(history, patience=2) is stalled


def test_rounds_of_a_chain_end_at_its_first_miss() -> None:
    agrees = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1], dtype=np.bool_)
    # 2 + bonus, 0 + bonus, 3 + bonus, 2 + bonus; what is left is too short to tell
    assert round_lengths(agrees, 3) == [3, 1, 4, 3]


def test_a_work_folder_remembers_its_plan(tmp_path: Path) -> None:
    plan = DistillPlan(target="t", target_weights="w", layers=(0, 3), vocabulary=10)
    Workspace(tmp_path).begin(plan)
    Workspace(tmp_path).begin(plan)
    with pytest.raises(InvalidRequest, match="layers"):
        Workspace(tmp_path).begin(plan.model_copy(update={"layers": (0, 2)}))
