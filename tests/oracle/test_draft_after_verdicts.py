"""Whatever verdicts came, and whatever was drafted ahead of them, a drafter proposes what it would
propose if it had just been opened on the very tokens before it."""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.ports import DraftSession, Expansion
from specedge.engine.torch_draft import TorchDrafter
from specedge.params import DraftPolicy, SamplingParams
from specedge.tree.ahead import AheadPolicy
from specedge.tree.path import Rerooting, subtree
from specedge.tree.token_tree import IntArray, TokenTree
from tests.oracle.random_trees import path_to
from tests.oracle.tiny_models import KV_BYTES, VOCAB_SIZE, build, loaded

CHILDREN = 3
PROMPT = np.array([17, 40, 8, 99, 23, 61, 5, 77], dtype=np.int32)
AHEAD = AheadPolicy(levels=3, max_nodes=200, beams=5, branch=CHILDREN, floor=0.0)
TOLERANCE = 2e-4
KINDS = ["miss", "partial", "full", "hit-inner", "hit-leaf", "append", "longer", "resync"]
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.8, seed=5)


@cache
def shared(family: str) -> TorchDrafter:
    return TorchDrafter(
        loaded(build(family)), kv_bytes=KV_BYTES, num_slots=3, num_children=CHILDREN
    )


class CheckedDrafter:
    """``Drafter`` that compares every proposal with a fresh session's."""

    def __init__(self, inner: TorchDrafter) -> None:
        self.inner = inner
        self.name = inner.name
        self.num_compared = 0

    def open(self, committed: IntArray, params: SamplingParams) -> "CheckedSession":
        return CheckedSession(self, committed, params)


@dataclass
class CheckedSession:
    drafter: CheckedDrafter
    committed: IntArray
    params: SamplingParams
    inner: DraftSession = field(init=False)

    def __post_init__(self) -> None:
        self.inner = self.drafter.inner.open(self.committed, self.params)

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        expansion = self.inner.expand(tree, nodes)
        for row, node in enumerate(nodes):
            fresh = self._fresh(tree.token[path_to(tree, int(node))])
            self._compare(expansion, row, fresh)
        return expansion

    def _fresh(self, path: IntArray) -> Expansion:
        text = np.concatenate([self.committed, path])
        session = self.drafter.inner.open(text, self.params)
        try:
            root = TokenTree.root_only(int(text[-1]))
            return session.expand(root, np.zeros(1, dtype=np.int32))
        finally:
            session.close()

    def _compare(self, got: Expansion, row: int, fresh: Expansion) -> None:
        score, wanted = got.logprob[row], fresh.logprob[0]
        np.testing.assert_allclose(score, wanted, atol=TOLERANCE)
        is_tie = np.abs(np.diff(wanted)) < 2 * TOLERANCE
        if not is_tie.any():
            np.testing.assert_array_equal(got.token[row], fresh.token[0])
        self.drafter.num_compared += 1

    def reroot(self, rerooting: Rerooting) -> None:
        self.inner.reroot(rerooting)
        self.committed = np.concatenate([self.committed, rerooting.committed])

    def close(self) -> None:
        self.inner.close()


class Session:
    """A tree drafter under verdicts of a wanted kind."""

    def __init__(self, family: str, params: SamplingParams = GREEDY) -> None:
        self.checked = CheckedDrafter(shared(family))
        self.drafter = TreeDrafter(self.checked)
        self.drafter.start(PROMPT, params)
        self.committed = PROMPT.tolist()
        self.sent = self.drafter.finish()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.drafter.close()

    def round(self, depth: int, num_ahead: int) -> None:
        """Draft, and go on ahead of the verdict."""
        self.drafter.begin(DraftPolicy(depth=depth, budget=8, beams=3, branch=CHILDREN))
        while self.drafter.step():
            pass
        self.sent = self.drafter.finish()
        for _ in range(num_ahead):
            self.drafter.step_ahead(AHEAD)

    def verdict(self, kind: str, pick: int) -> bool:
        """A verdict of that kind, if this tree can have one."""
        if kind == "append":
            self.committed += [pick % VOCAB_SIZE, 9, 3]
            self.drafter.on_append(self.committed[-3:])
        elif kind == "longer":
            self.committed += [pick % VOCAB_SIZE, 9]
            self.drafter.resync(np.array(self.committed, dtype=np.int32))
        elif kind == "resync":
            self.committed[pick % len(PROMPT)] += 1 if self.committed[0] < 100 else -1
            self.committed.append(4)
            self.drafter.resync(np.array(self.committed, dtype=np.int32))
        else:
            return self._answer(kind, pick)
        return True

    def _answer(self, kind: str, pick: int) -> bool:
        exits = self._exits(kind)
        if not exits:
            return False
        exit_, bonus = exits[pick % len(exits)]
        tree = self.drafter.growing.tree
        path = tree.token[path_to(tree, exit_)].tolist()
        self.committed += [*path, bonus]
        hits = self.drafter.counts.hits
        self.drafter.on_verdict(path, bonus)
        assert self.drafter.counts.hits - hits == kind.startswith("hit")
        return True

    def _exits(self, kind: str) -> list[tuple[int, int]]:
        """Sent nodes and the bonus tokens that make such a verdict there."""
        growing = self.drafter.growing
        tree, sent = growing.tree, set(self.sent.ids.tolist())
        if kind.startswith("hit"):
            outcomes = [
                node
                for node in np.setdiff1d(np.arange(1, len(tree)), self.sent.ids).tolist()
                if tree.parent[node] in sent and growing.expanded[node] == (kind == "hit-inner")
            ]
            # The one with the most below it first.
            outcomes.sort(key=lambda node: -int(growing.expanded[subtree(tree, node)].sum()))
            return [(int(tree.parent[node]), int(tree.token[node])) for node in outcomes]
        parents = {int(tree.parent[node]) for node in sent if node > 0}
        of_kind = {
            "miss": {0},
            "partial": parents - {0},
            "full": sent - parents - {0},
        }[kind]
        return [(node, self._missing(node)) for node in sorted(of_kind)]

    def _missing(self, node: int) -> int:
        """A token that is not among the node's children."""
        tree = self.drafter.growing.tree
        children = tree.token[tree.parent == node]
        return next(token for token in range(3, VOCAB_SIZE) if token not in children)


@pytest.mark.parametrize(
    ("family", "params"), [("llama", GREEDY), ("gemma2", SAMPLED)], ids=["llama", "gemma2"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_after_every_kind_of_verdict_proposals_are_those_of_a_fresh_session(
    kind: str, family: str, params: SamplingParams
) -> None:
    with Session(family, params) as session:
        for _ in range(2):
            session.round(depth=2, num_ahead=5)
            assert session.verdict(kind, pick=0)
        session.round(depth=5, num_ahead=0)

        assert session.checked.num_compared > 20
        assert (session.drafter.counts.passes_saved > 0) == (kind == "hit-inner")


ROUNDS = st.lists(
    st.tuples(
        st.integers(0, 3),  # depth
        st.integers(0, 6),  # passes ahead
        st.sampled_from(KINDS),
        st.integers(0, 1000),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["llama", "gemma2"]), st.sampled_from([GREEDY, SAMPLED]), ROUNDS)
def test_after_any_sequence_of_verdicts_proposals_are_those_of_a_fresh_session(
    family: str, params: SamplingParams, rounds: list[tuple[int, int, str, int]]
) -> None:
    with Session(family, params) as session:
        for depth, num_ahead, kind, pick in rounds:
            session.round(depth, num_ahead)
            if session.verdict(kind, pick):
                event(kind)
        session.round(depth=2, num_ahead=1)
