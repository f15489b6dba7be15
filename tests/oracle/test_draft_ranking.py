"""A coupled drafter draws with the target's own noise: as good as its distribution, no worse."""

import numpy as np
import pytest
import torch

from specedge.engine.draft_head import DraftHead
from specedge.engine.draft_ranking import SPREAD, Coupled, Likeliest
from specedge.engine.torch_draft import TorchDrafter
from specedge.params import SamplingParams
from specedge.sampling.noise import gumbel
from specedge.sampling.rules import choose, process_logits
from specedge.tree.calibration import ScoreKind
from specedge.tree.token_tree import FloatArray, IntArray, TokenTree
from tests.oracle.tiny_models import KV_BYTES, VOCAB_SIZE, build, loaded, plain_logits

NONE: IntArray = np.empty(0, dtype=np.int32)
POSITIONS = np.array([17, 18, 17, 40, 18, 99], dtype=np.int32)
SAMPLING = [
    SamplingParams(temperature=0.8, seed=5),
    SamplingParams(temperature=1.3, seed=2**63 + 1, top_k=3),
    SamplingParams(temperature=0.7, seed=6, top_p=0.6),
    SamplingParams(temperature=1.0, seed=7, min_p=0.2, logit_bias=((2, -100.0), (9, 4.0))),
]


def some_logits(rows: int = len(POSITIONS), seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    return (3 * rng.standard_normal((rows, VOCAB_SIZE))).astype(np.float32)


def coupled(params: SamplingParams, tokens: IntArray | None = None, children: int = 5) -> Coupled:
    head = DraftHead(VOCAB_SIZE, tokens)
    return Coupled(head, params, children, torch.device("cpu"), sharpness=1.0)


@pytest.mark.parametrize("params", SAMPLING)
def test_with_the_targets_own_logits_the_first_child_is_the_targets_choice(
    params: SamplingParams,
) -> None:
    logits = some_logits()

    token, score = coupled(params).best(torch.from_numpy(logits), POSITIONS)

    for row, position in enumerate(POSITIONS.tolist()):
        processed = process_logits(logits[row], params, NONE, NONE, frozenset())
        assert token[row, 0] == choose(processed, params, position)
    assert (np.diff(score, axis=1) <= 0).all()
    assert (np.exp(score).sum(axis=1) <= 1 + 1e-5).all()


def test_the_score_is_the_share_among_all_that_it_competes_with() -> None:
    params, logits = SAMPLING[0], some_logits(1)

    token, score = coupled(params).best(torch.from_numpy(logits), POSITIONS[:1])

    total = (logits[0] / 0.8 + gumbel(params.seed, 17, VOCAB_SIZE)).astype(np.float64) / SPREAD
    share = total - np.log(np.exp(total).sum())
    np.testing.assert_array_equal(token[0], np.argsort(-share)[:5])
    np.testing.assert_allclose(score[0], share[token[0]], atol=1e-5)


def test_what_the_drafters_truncation_masks_comes_behind_all_else() -> None:
    params, logits = SamplingParams(temperature=1.0, seed=3, top_k=2), some_logits()

    token, score = coupled(params).best(torch.from_numpy(logits), POSITIONS)

    nucleus = np.argsort(-logits, axis=1)[:, :2]
    np.testing.assert_array_equal(np.sort(token[:, :2]), np.sort(nucleus))
    assert (token[:, 2:] >= 0).all()
    assert (score[:, 2] < score[:, 1] - 5).all()


def test_a_head_of_some_tokens_uses_the_noise_of_those_tokens() -> None:
    tokens = np.random.default_rng(1).permutation(VOCAB_SIZE)[:30].astype(np.int32)
    params, logits = SAMPLING[0], some_logits()

    token, _ = coupled(params, tokens).best(torch.from_numpy(logits[:, tokens]), POSITIONS)

    for row, position in enumerate(POSITIONS.tolist()):
        total = logits[row, tokens] / 0.8 + gumbel(params.seed, position, VOCAB_SIZE)[tokens]
        np.testing.assert_array_equal(token[row], tokens[np.argsort(-total)[:5]])


def test_positions_that_were_forgotten_have_the_same_noise_when_asked_again() -> None:
    ranking, logits = coupled(SAMPLING[0]), torch.from_numpy(some_logits())
    before = ranking.best(logits, POSITIONS)

    ranking.forget_before(50)
    after = ranking.best(logits, POSITIONS)

    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


def test_without_noise_the_likeliest_come_first_whatever_the_bias_says_less() -> None:
    params = SamplingParams(logit_bias=((4, 50.0),))
    ranking = Likeliest(DraftHead(VOCAB_SIZE), params, 3, torch.device("cpu"))
    logits = some_logits(1)

    token, _ = ranking.best(torch.from_numpy(logits), POSITIONS[:1])

    biased = logits[0].copy()
    biased[4] += 50
    np.testing.assert_array_equal(token[0], np.argsort(-biased)[:3])
    assert token[0, 0] == 4


def test_a_drafter_asks_for_the_position_of_the_token_being_chosen() -> None:
    params = SamplingParams(temperature=1.5, seed=11)
    drafter = TorchDrafter(loaded(build("llama")), kv_bytes=KV_BYTES, num_slots=1, coupled=True)
    committed = np.array([5, 9, 30, 7], dtype=np.int32)
    tree = TokenTree.from_parents([7, 3, 4], [-1, 0, 1])
    session = drafter.open(committed, params)

    root = session.expand(tree, np.array([0], dtype=np.int32))
    below = session.expand(tree, np.array([1], dtype=np.int32))

    assert root.kind is below.kind is ScoreKind.COUPLED
    for expansion, text in ((root, [5, 9, 30, 7]), (below, [5, 9, 30, 7, 3])):
        logits = torch.from_numpy(plain_logits(build("llama"), text))[None]
        # The token after these is chosen at their count: prompt plus output, from 0.
        ranking = drafter.ranking(params)
        wanted, _ = ranking.best(logits, np.array([len(text)], dtype=np.int32))
        np.testing.assert_array_equal(expansion.token, wanted)


@pytest.mark.parametrize("is_coupled", [False, True])
def test_a_greedy_target_draws_no_noise_so_neither_does_its_drafter(is_coupled: bool) -> None:
    drafter = TorchDrafter(
        loaded(build("llama")), kv_bytes=KV_BYTES, num_slots=1, coupled=is_coupled
    )

    session = drafter.open(np.array([5, 9], dtype=np.int32), SamplingParams(seed=4))
    expansion = session.expand(TokenTree.root_only(9), np.zeros(1, dtype=np.int32))

    best = plain_logits(build("llama"), [5, 9]).argmax()
    assert expansion.kind is ScoreKind.LOGPROB
    assert expansion.token[0, 0] == best
