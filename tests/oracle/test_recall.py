"""Blending what followed before into a draft model's own distribution, against plain arithmetic."""

import numpy as np
import pytest
import torch

from specedge.engine.draft_head import DraftHead
from specedge.engine.draft_ranking import Coupled, Likeliest
from specedge.engine.recall import (
    WEIGHT,
    Recalled,
    Recollection,
    best_blended,
    blend,
)
from specedge.params import SamplingParams
from specedge.sampling.noise import gumbel_of
from specedge.tree.token_tree import TokenTree

HEAD = np.array([3, 5, 8, 13, 21, 34], dtype=np.int32)  # of a vocabulary of 40
BEYOND = 30
RECALLED = Recalled(
    np.array([[8, BEYOND], [34, -1]], dtype=np.int32),
    np.array([[0.3, 0.1], [0.45, 0.0]], dtype=np.float32),
)


def logits() -> torch.Tensor:
    return torch.randn((2, len(HEAD)), generator=torch.Generator().manual_seed(3)) * 2


def expected_mixture(row: int, temperature: float = 1.0) -> dict[int, float]:
    modelled = (logits()[row].double() / temperature).softmax(0).numpy()
    claims = dict(zip(RECALLED.token[row].tolist(), RECALLED.claim[row].tolist(), strict=True))
    claims.pop(-1, None)
    left = 1.0 - sum(claims.values())
    mixture = {int(t): left * p for t, p in zip(HEAD, modelled, strict=True)}
    for token, claim in claims.items():
        mixture[token] = mixture.get(token, 0.0) + claim
    return mixture


def test_a_blend_is_a_mixture_and_sums_to_one() -> None:
    blended = blend(logits(), RECALLED, DraftHead(40, HEAD))
    assert torch.allclose(blended.logprob.exp().sum(dim=1), torch.ones(2), atol=1e-6)
    for row in range(2):
        wanted = expected_mixture(row)
        for column, token in enumerate(HEAD.tolist()):
            assert blended.logprob[row, column].exp().item() == pytest.approx(wanted[token])
    assert blended.beyond.tolist() == [[-1, BEYOND], [-1, -1]]
    assert blended.logprob[0, -1].exp().item() == pytest.approx(0.1)


def test_children_are_ranked_by_the_mixture_with_tokens_the_head_cannot_say() -> None:
    ranking = Likeliest(DraftHead(40, HEAD), SamplingParams(), 7, torch.device("cpu"))
    token, score = ranking.best(logits(), np.array([4, 4], dtype=np.int32), RECALLED)
    for row, count in ((0, 7), (1, 6)):
        wanted = sorted(expected_mixture(row).items(), key=lambda pair: -pair[1])
        assert token[row, :count].tolist() == [child for child, _ in wanted]
        assert np.allclose(np.exp(score[row, :count]), [p for _, p in wanted], atol=1e-6)
    assert np.isneginf(score[1, 6])


@pytest.mark.parametrize("seed", range(8))
def test_the_best_of_the_mixture_are_found_without_making_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = DraftHead(600, rng.permutation(600)[:400].astype(np.int32))
    scores = torch.from_numpy(rng.normal(0, 3, (6, 400)).astype(np.float32))
    token = np.stack([rng.permutation(600)[:5] for _ in range(6)]).astype(np.int32)
    claim = rng.dirichlet(np.ones(5), size=6).astype(np.float32) * WEIGHT
    missing = rng.random((6, 5)) < 0.3
    token[missing], claim[missing] = -1, 0.0
    recalled = Recalled(token, claim)
    whole = blend(scores, recalled, head)
    ids = np.concatenate([np.tile(head.tokens, (6, 1)), whole.beyond], axis=1)
    order = np.argsort(-whole.logprob.numpy(), axis=1)[:, :9]

    best, logprob = best_blended(scores, recalled, head, 9)

    assert np.array_equal(best, np.take_along_axis(ids, order, axis=1))
    wanted = np.take_along_axis(whole.logprob.numpy(), order, axis=1)
    assert np.allclose(logprob, wanted, atol=1e-5)


def test_a_coupled_drafter_adds_the_targets_noise_to_the_mixture() -> None:
    params = SamplingParams(temperature=0.8, seed=77)
    ranking = Coupled(DraftHead(40, HEAD), params, 3, torch.device("cpu"), sharpness=1.0)
    positions = np.array([9, 11], dtype=np.int32)
    token, _ = ranking.best(logits(), positions, RECALLED)
    for row, position in enumerate(positions.tolist()):
        mixture = expected_mixture(row, temperature=0.8)
        ids = np.array(list(mixture), dtype=np.int32)
        noisy = np.log(list(mixture.values())) + gumbel_of(77, position, ids)
        assert token[row].tolist() == ids[np.argsort(-noisy)][:3].tolist()


def test_a_text_that_repeats_itself_is_recalled_from_every_node_of_a_tree() -> None:
    text = np.array([7, 8, 9, 10, 1, 2, 7, 8], dtype=np.int32)
    tree = TokenTree.from_parents(np.array([8, 9, 30], dtype=np.int32), [-1, 0, 0])
    recalled = Recollection(text, 4).of(tree, np.array([0, 1, 2], dtype=np.int32))
    assert recalled is not None
    assert recalled.token[:, 0].tolist() == [9, 10, -1]
    assert (recalled.claim.sum(axis=1) <= WEIGHT).all()
    assert recalled.claim[2].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_where_nothing_repeats_nothing_is_recalled() -> None:
    text = np.arange(5, dtype=np.int32)
    assert Recollection(text, 4).of(TokenTree.root_only(4), np.zeros(1, dtype=np.int32)) is None
