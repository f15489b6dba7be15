"""After every kind of verdict a drafter proposes what it would propose computed afresh."""

import numpy as np
import pytest
from transformers import PreTrainedModel

from specedge.engine.ports import DraftSession, ReadingSession
from specedge.engine.torch_draft import TorchDrafter
from specedge.errors import Busy, ProtocolViolation
from specedge.params import SamplingParams
from specedge.tree.path import Rerooting, reroot
from specedge.tree.token_tree import IntArray, TokenTree
from tests.oracle.random_trees import path_to
from tests.oracle.tiny_models import (
    KV_BYTES,
    VOCAB_SIZE,
    build,
    loaded,
    plain_logits,
    random_tokens,
)

CHILDREN = 3
# A plain one, and one with windows shorter than the context.
FAMILIES = ["llama", "gemma2"]


class Drafting:
    """A session and the tree its caller grows on it, checked against plain forwards as it goes."""

    def __init__(self, family: str, committed: IntArray, max_context_tokens: int = 512) -> None:
        self.plain: PreTrainedModel = build(family)
        model = loaded(build(family), max_context_tokens)
        self.drafter = TorchDrafter(model, kv_bytes=KV_BYTES, num_slots=2, num_children=CHILDREN)
        self.session: DraftSession = self.drafter.open(committed, SamplingParams())
        self.committed = committed
        self.tree = TokenTree.root_only(int(committed[-1]))
        self.expanded = np.zeros(1, dtype=np.bool_)

    def expand(self, *nodes: int) -> None:
        """Expand, compare with the plain model, and put all children into the tree."""
        expansion = self.session.expand(self.tree, np.array(nodes, dtype=np.int32))
        token, parent = list(self.tree.token), list(self.tree.parent)
        for row, node in enumerate(nodes):
            self._check(node, expansion.token[row], expansion.logprob[row])
            token += expansion.token[row].tolist()
            parent += [node] * CHILDREN
        self.expanded[list(nodes)] = True
        self.tree = TokenTree.from_parents(token, parent)
        self.expanded = np.resize(self.expanded, len(token)) & (
            np.arange(len(token)) < len(self.expanded)
        )

    def _check(self, node: int, token: IntArray, logprob: np.ndarray) -> None:
        text = np.concatenate([self.committed, self.tree.token[path_to(self.tree, node)]])
        wanted = plain_logits(self.plain, text).astype(np.float64)
        wanted -= np.log(np.exp(wanted).sum())
        best = np.argsort(-wanted, kind="stable")[:CHILDREN]
        np.testing.assert_array_equal(token, best)
        np.testing.assert_allclose(logprob, wanted[best], atol=1e-4)

    def verdict(self, node: int, *bonus: int) -> Rerooting:
        """The path to ``node``, then ``bonus`` tokens, are committed."""
        path = self.tree.token[path_to(self.tree, node)]
        committed = np.array([*path, *bonus], dtype=np.int32)
        rerooting, self.tree = reroot(self.tree, committed)
        self.session.reroot(rerooting)
        self.committed = np.concatenate([self.committed, committed])
        kept = self.expanded[rerooting.kept] if rerooting.is_hit else np.zeros(1, dtype=np.bool_)
        self.expanded = kept
        return rerooting

    def leaves(self) -> list[int]:
        return [int(node) for node in np.flatnonzero(~self.expanded)]

    def missing_token(self, node: int) -> int:
        """A token that is not among the node's children."""
        children = self.tree.token[self.tree.parent == node]
        return next(token for token in range(3, VOCAB_SIZE) if token not in children)

    def grown(self) -> "Drafting":
        """Three passes: 1 + 3 + 9 + … nodes, expanded out of the order of their ids."""
        self.expand(0)
        self.expand(3, 1)
        self.expand(9, 4, 2)
        return self

    def go_on(self) -> None:
        """Expand whatever is not expanded yet, then a level more: all of it is checked."""
        self.expand(*self.leaves())
        self.expand(self.leaves()[0], self.leaves()[-1])


@pytest.fixture(params=FAMILIES)
def drafting(request: pytest.FixtureRequest) -> Drafting:
    return Drafting(request.param, random_tokens(np.random.default_rng(1), 30)).grown()


def test_a_tree_grown_over_several_passes_sees_only_its_own_paths(drafting: Drafting) -> None:
    drafting.go_on()


def test_after_a_miss_at_the_root(drafting: Drafting) -> None:
    rerooting = drafting.verdict(0, drafting.missing_token(0))

    assert not rerooting.is_hit and len(rerooting.path) == 0
    drafting.grown()


def test_after_a_miss_below_an_accepted_path_that_was_expanded(drafting: Drafting) -> None:
    rerooting = drafting.verdict(4, drafting.missing_token(4))

    assert not rerooting.is_hit and len(rerooting.path) == 2
    drafting.grown()


def test_after_a_full_path_down_to_a_leaf_that_was_never_expanded(drafting: Drafting) -> None:
    leaf = 10  # the likeliest child of node 9, which the last pass expanded
    assert not drafting.expanded[leaf]

    rerooting = drafting.verdict(leaf, 77)

    assert not rerooting.is_hit and len(rerooting.path) == 3
    drafting.grown()


def test_after_a_hit_on_an_inner_node_its_subtree_is_a_head_start(drafting: Drafting) -> None:
    rerooting = drafting.verdict(3)

    assert rerooting.is_hit and len(rerooting.kept) > CHILDREN
    drafting.go_on()


def test_after_a_hit_whose_subtree_lies_in_front_of_rows_that_were_dropped(
    drafting: Drafting,
) -> None:
    rerooting = drafting.verdict(1)

    assert rerooting.is_hit and len(rerooting.kept) > 1
    drafting.go_on()


def test_after_a_hit_on_a_deep_inner_node(drafting: Drafting) -> None:
    rerooting = drafting.verdict(9)

    assert rerooting.is_hit and len(rerooting.path) == 1
    drafting.go_on()


def test_after_a_hit_on_a_leaf(drafting: Drafting) -> None:
    rerooting = drafting.verdict(drafting.leaves()[0])

    assert rerooting.is_hit and len(rerooting.kept) == 1
    drafting.grown()


def test_after_a_commit_of_tokens_that_no_draft_held(drafting: Drafting) -> None:
    drafting.verdict(0, *random_tokens(np.random.default_rng(2), 80).tolist())

    drafting.grown()


def test_after_a_verdict_before_anything_was_computed() -> None:
    drafting = Drafting("llama", random_tokens(np.random.default_rng(3), 5))

    drafting.verdict(0, 9)

    drafting.grown()


def test_after_a_hundred_random_verdicts() -> None:
    rng = np.random.default_rng(4)
    drafting = Drafting("llama", random_tokens(rng, 12))
    for _ in range(100):
        for _ in range(int(rng.integers(0, 3))):
            leaves = [0] if not drafting.expanded[0] else drafting.leaves()
            drafting.expand(*rng.permutation(leaves)[:3].tolist())
        node = int(rng.integers(0, len(drafting.tree)))
        drafting.verdict(node, *random_tokens(rng, int(node == 0 or rng.integers(0, 2))).tolist())


def test_a_node_asked_again_after_a_verdict_answers_the_same(drafting: Drafting) -> None:
    drafting.verdict(3)
    again = np.array([0, *np.flatnonzero(drafting.expanded)[1:]], dtype=np.int32)

    expansion = drafting.session.expand(drafting.tree, again)

    for row, node in enumerate(again):
        drafting._check(int(node), expansion.token[row], expansion.logprob[row])
    drafting.go_on()


def test_a_long_context_is_computed_in_pieces_that_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("specedge.engine.torch_draft.PREFILL_CHUNK_TOKENS", 16)

    Drafting("gemma2", random_tokens(np.random.default_rng(5), 70)).grown()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_read_before_its_first_pass_changes_nothing(family: str) -> None:
    drafting = Drafting(family, random_tokens(np.random.default_rng(9), 40))
    session = drafting.session
    assert isinstance(session, ReadingSession)

    session.read(16)
    assert session.num_unread == 24
    drafting.verdict(0, 5, 6)  # hosted meanwhile
    session.read(16)
    assert session.num_unread == 10

    drafting.grown()
    assert session.num_unread == 0
    drafting.go_on()


def test_nothing_is_proposed_beyond_the_models_positions() -> None:
    drafting = Drafting("llama", random_tokens(np.random.default_rng(6), 31), 32)
    drafting.expand(0)

    drafting.expand(1)
    beyond = drafting.session.expand(drafting.tree, np.array([4], dtype=np.int32))

    assert (beyond.token == -1).all() and np.isneginf(beyond.logprob).all()
    assert beyond.is_beyond


def test_a_context_that_no_pass_will_see_is_not_read() -> None:
    drafting = Drafting("llama", random_tokens(np.random.default_rng(6), 33), 32)

    assert isinstance(drafting.session, ReadingSession)
    assert drafting.session.num_unread == 0


def test_a_node_whose_parent_was_never_expanded_is_a_callers_bug() -> None:
    drafting = Drafting("llama", random_tokens(np.random.default_rng(7), 10))
    tree = TokenTree.from_parents([int(drafting.committed[-1]), 5, 6], [-1, 0, 1])

    with pytest.raises(ProtocolViolation):
        drafting.session.expand(tree, np.array([2], dtype=np.int32))


def test_a_closed_session_gives_its_slot_back() -> None:
    drafting = Drafting("llama", random_tokens(np.random.default_rng(8), 10))
    second = drafting.drafter.open(drafting.committed, SamplingParams())
    with pytest.raises(Busy):
        drafting.drafter.open(drafting.committed, SamplingParams())

    second.close()
    second.close()

    drafting.drafter.open(drafting.committed, SamplingParams())
