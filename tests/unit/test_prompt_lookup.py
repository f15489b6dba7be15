"""Prompt lookup: what it finds, how it ranks it, and what it costs."""

import subprocess
import sys

import numpy as np
import pytest

from specedge.engine.prompt_lookup import (
    MAX_NGRAM,
    MAX_OCCURRENCES,
    NgramIndex,
    PromptLookupDrafter,
    PromptLookupSession,
)
from specedge.params import SamplingParams
from specedge.tree.path import reroot
from specedge.tree.token_tree import TokenTree

ROOT = np.array([0], dtype=np.int32)


def session_on(*committed: int, branch: int = 3, max_ngram: int = 4) -> PromptLookupSession:
    drafter = PromptLookupDrafter(branch=branch, max_ngram=max_ngram)
    return drafter.open(np.array(committed, dtype=np.int32), SamplingParams())


def children(session: PromptLookupSession, tree: TokenTree, node: int = 0) -> list[int]:
    found = session.expand(tree, np.array([node], dtype=np.int32)).token[0]
    return [int(token) for token in found if token >= 0]


def test_a_text_without_repetition_offers_nothing() -> None:
    out = session_on(1, 2, 3).expand(TokenTree.root_only(3), ROOT)

    assert out.token.tolist() == [[-1, -1, -1]]
    assert np.isneginf(out.logprob).all()


def test_the_longest_match_ranks_first_even_if_it_is_older() -> None:
    session = session_on(7, 1, 2, 50, 9, 2, 60, 7, 1, 2)

    assert children(session, TokenTree.root_only(2)) == [50, 60]


def test_among_equally_long_matches_the_newest_ranks_first() -> None:
    session = session_on(1, 50, 1, 60, 1, 70, 1)

    assert children(session, TokenTree.root_only(1)) == [70, 60, 50]


def test_no_more_than_the_ngram_limit_is_matched() -> None:
    text = (1, 2, 50, 9, 2, 60, 1, 2)

    assert children(session_on(*text, max_ngram=1), TokenTree.root_only(2)) == [60, 50]
    assert children(session_on(*text, max_ngram=2), TokenTree.root_only(2)) == [50, 60]


def test_the_path_in_the_tree_counts_as_text_but_is_not_searched() -> None:
    session = session_on(1, 2, 3, 4, 9, 1)
    tree = TokenTree.from_parents([1, 2, 3, 8], [-1, 0, 1, 0])

    assert children(session, tree, 1) == [3]
    assert children(session, tree, 2) == [4]
    assert children(session, tree, 3) == []


def test_a_rare_newest_follower_keeps_its_rank_and_caps_the_scores_after_it() -> None:
    out = session_on(*[1, 60] * 5, 1, 70, 1, branch=2).expand(TokenTree.root_only(1), ROOT)

    assert out.token[0].tolist() == [70, 60]
    assert out.logprob[0, 0] == out.logprob[0, 1]


def test_scores_fall_and_are_log_probabilities() -> None:
    random = np.random.default_rng(0)
    text = random.integers(0, 5, 300).tolist()

    out = session_on(*text, branch=5).expand(TokenTree.root_only(text[-1]), ROOT)

    assert (np.diff(out.logprob[0]) <= 0).all()
    assert np.exp(out.logprob).sum() <= 1.0


def test_what_always_followed_is_held_likelier_than_what_followed_once() -> None:
    always = session_on(*[1, 2, 3, 4, 5] * 6, 1).expand(TokenTree.root_only(1), ROOT)
    once = session_on(1, 2, 1).expand(TokenTree.root_only(1), ROOT)

    assert always.token[0, 0] == once.token[0, 0] == 2
    assert always.logprob[0, 0] > once.logprob[0, 0]


@pytest.mark.parametrize("committed", [[2], [2, 3, 8], [5]])
def test_committed_tokens_are_found_from_then_on(committed: list[int]) -> None:
    text = [1, 2, 3, 1]
    session = session_on(*text)
    tree = TokenTree.from_parents([1, 2, 3], [-1, 0, 1])

    rerooting, new = reroot(tree, committed)
    session.reroot(rerooting)

    fresh = session_on(*text, *committed)
    assert children(session, new) == children(fresh, new)


@pytest.mark.parametrize("num_tokens", [1_000, 64_000])
def test_of_a_suffix_no_more_places_are_looked_at_however_long_the_text_is(num_tokens: int) -> None:
    index = NgramIndex()
    for token in range(num_tokens):
        index.append(token % 7)

    found = list(index.followers([3, 4, 5, 6]))

    assert [len(places) for places in found] == [MAX_OCCURRENCES] * MAX_NGRAM


def test_no_torch_is_imported() -> None:
    program = (
        "import sys, specedge.engine.prompt_lookup, specedge.engine.emulated;"
        "import specedge.drafting.tree_drafter;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'asyncio')))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_its_name_is_told() -> None:
    assert PromptLookupDrafter().name == "prompt-lookup"
