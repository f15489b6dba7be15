"""The parts of a distillation that need no model: what is stored, learned from, and when."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from specedge.distill import stages
from specedge.distill.batches import BatchMaker
from specedge.distill.corpus import Conversation, num_tokens, piece_path, read_piece, write_piece
from specedge.distill.evaluation import round_lengths
from specedge.distill.schedule import Schedule, has_stalled
from specedge.distill.self_sampling import SelfSampler
from specedge.distill.training import Progress
from specedge.distill.vocabulary import frequent_tokens, token_mass
from specedge.distill.workspace import CHECKPOINT, DistillPlan, Workspace
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
PLAN = DistillPlan(
    target="t", target_weights="w", layers=(0, 3), vocabulary=10, piece_conversations=2
)


def begun(folder: Path) -> Workspace:
    workspace = Workspace(folder)
    workspace.begin(PLAN)
    return workspace


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_piece(piece_path(tmp_path, 1), CONVERSATIONS[:4])
    write_piece(piece_path(tmp_path, 12), CONVERSATIONS[4:])
    paths = [piece_path(tmp_path, number) for number in (1, 12)]
    read = [one for path in paths for one in read_piece(path)]
    assert sum(map(num_tokens, paths)) == sum(len(one.tokens) for one in CONVERSATIONS)
    for one, other in zip(read, CONVERSATIONS, strict=True):
        for name in ("tokens", "has_next", "next_id", "next_logprob"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert (one.prompt_len, one.is_greedy) == (other.prompt_len, other.is_greedy)


def test_half_a_piece_is_never_seen(tmp_path: Path) -> None:
    workspace = begun(tmp_path)
    (workspace.corpus / ".piece-00001.npz.7.npz").write_bytes(b"half")
    assert workspace.pieces() == []


@pytest.mark.parametrize("read", [read_piece, num_tokens])
@pytest.mark.parametrize("kept", [None, 0, 1, 30, 300, -30])
def test_a_broken_piece_is_named(
    read: Callable[[Path], object], kept: int | None, tmp_path: Path
) -> None:
    path = piece_path(tmp_path, 2)
    write_piece(path, CONVERSATIONS)
    path.write_bytes(b"no zip" if kept is None else path.read_bytes()[:kept])
    with pytest.raises(ModelUnusable, match="piece-00002"):
        read(path)


def test_a_piece_that_lacks_an_array_is_named(tmp_path: Path) -> None:
    path = piece_path(tmp_path, 2)
    np.savez(path, tokens=np.zeros(3))
    for read in (read_piece, num_tokens):
        with pytest.raises(ModelUnusable, match="piece-00002"):
            read(path)


def test_what_is_held_out_is_no_text_to_train_on(tmp_path: Path) -> None:
    workspace = begun(tmp_path)
    write_piece(piece_path(workspace.corpus, 0), CONVERSATIONS[:4])
    assert workspace.num_training_tokens() == 0
    write_piece(piece_path(workspace.corpus, 1), CONVERSATIONS[4:])
    assert workspace.num_training_tokens() == sum(len(one.tokens) for one in CONVERSATIONS[4:])


class Talker:
    """A sampler whose conversations are always the same."""

    def sample(self, _seed: Sequence[int]) -> Iterator[Conversation]:
        return itertools.cycle(CONVERSATIONS)


class Patient:
    """A watcher that stops nothing, or sampling when it was told so often."""

    def __init__(self, most: int | None = None) -> None:
        self.told: list[int] = []
        self._most = most

    def sampled(self, tokens: int, _wanted: int) -> bool:
        self.told.append(tokens)
        return len(self.told) != self._most

    def trained(self, _progress: Progress, _wanted_tokens: int) -> bool:
        return True


def test_the_smallest_corpus_has_something_to_train_on(tmp_path: Path) -> None:
    workspace, watcher = begun(tmp_path), Patient()
    sampler = cast("SelfSampler", Talker())
    stages.sample_corpus(sampler, workspace, PLAN, 1, stages.Share(), watcher)
    assert workspace.pieces() == [0, 1]
    assert stages.Corpus(workspace).conversations()
    assert watcher.told[-1] == sum(len(one.tokens) for one in CONVERSATIONS[2:4])


def test_sampling_tells_of_every_conversation_but_of_no_end_before_it(tmp_path: Path) -> None:
    workspace, watcher = begun(tmp_path), Patient()
    stages.sample_corpus(
        cast("SelfSampler", Talker()), workspace, PLAN, 100, stages.Share(), watcher
    )
    lengths = [len(one.tokens) for one in CONVERSATIONS]
    held_out = [0, 0, 0, 0]  # the start, its two conversations, its end
    first, second = lengths[2], lengths[2] + lengths[3]
    third, fourth = second + lengths[4], second + lengths[4] + lengths[5]
    last = [fourth + lengths[0], 99, fourth + lengths[0] + lengths[1]]
    assert watcher.told == [*held_out, first, second, second, third, fourth, fourth, *last]


def test_what_was_sampled_when_it_was_stopped_is_kept(tmp_path: Path) -> None:
    workspace = begun(tmp_path)
    stopping = Patient(most=5)  # at the first conversation to train on
    stages.sample_corpus(
        cast("SelfSampler", Talker()), workspace, PLAN, 1000, stages.Share(), stopping
    )
    assert [len(read_piece(piece_path(workspace.corpus, one))) for one in (0, 1)] == [2, 1]


def test_nothing_is_measured_on_half_of_what_is_held_out(tmp_path: Path) -> None:
    workspace = begun(tmp_path)
    stopping = Patient(most=2)  # at the first conversation of all
    stages.sample_corpus(
        cast("SelfSampler", Talker()), workspace, PLAN, 1000, stages.Share(), stopping
    )
    assert workspace.pieces() == []


def test_a_drafter_that_was_never_trained_is_not_written(tmp_path: Path) -> None:
    workspace = begun(tmp_path)
    workspace.fix_head_tokens(np.arange(10, dtype=np.int32))
    with pytest.raises(InvalidRequest, match="train first"):
        stages.check_trained(workspace)
    (tmp_path / CHECKPOINT).touch()
    stages.check_trained(workspace)


def test_broken_head_tokens_are_named(tmp_path: Path) -> None:
    workspace = begun(tmp_path)
    for broken in (b"", b"no array"):
        (tmp_path / "head_tokens.npy").write_bytes(broken)
        with pytest.raises(ModelUnusable, match="head_tokens"):
            workspace.head_tokens()


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
    begun(tmp_path)
    begun(tmp_path)
    with pytest.raises(InvalidRequest, match="layers"):
        Workspace(tmp_path).begin(PLAN.model_copy(update={"layers": (0, 2)}))
