"""A drafter without a model, whose agreement with an emulated target is a dial.

It knows the target's token after every prefix, on the right path or not, and proposes it at a rank
drawn from the dial. All is deterministic by hash. It does not know which ids a request masks. Holds
its caller to the ``DraftSession`` contract: wrong use raises ProtocolViolation. Imports no torch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from specedge.engine.emulated_text import EmulatedText
from specedge.engine.ports import Expansion
from specedge.errors import Busy, ProtocolViolation
from specedge.params import SamplingParams
from specedge.profiles import INSTANT, DeviceProfile
from specedge.sampling.noise import UNIT, mix
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import IntArray, TokenTree

# Keeps the drawing of ranks apart from that of tokens.
_RANK_SALT: Final = 0xA0761D6478BD642F
# A hopeless child still has a finite score, falling with its rank.
_LEAST_PROBABILITY: Final = 1e-6
_NEVER: Final = 1 << 30


class EmulatedDrafter:
    """``Drafter`` for an ``EmulatedText``.

    agreement  probability, per depth from 1 on (the last one holds for all deeper), that the
               target's token is the first child; given that it is not, that it is the second with
               the same probability, and so on for ``branch`` children
    sleep      gets seconds, once per pass, as ``profile.draft_pass_ms`` says
    """

    def __init__(
        self,
        text: EmulatedText | None = None,
        *,
        agreement: Sequence[float] = (0.8,),
        branch: int = 4,
        profile: DeviceProfile = INSTANT,
        sleep: Callable[[float], None] = lambda _: None,
        max_sessions: int = 1024,
    ) -> None:
        if not agreement or not all(0.0 <= a <= 1.0 for a in agreement):
            raise ValueError("agreement is a probability per depth")
        self.text = text or EmulatedText()
        self.branch = min(branch, self.text.vocab_size - 1)
        self._agreement = tuple(agreement)
        self._scores = [_scores(a, self.branch) for a in agreement]
        self._pass_s = profile.draft_pass_ms / 1e3
        self._sleep = sleep
        self._room = max_sessions

    @property
    def name(self) -> str:
        """``emulated``."""
        return "emulated"

    def open(self, committed: IntArray, params: SamplingParams) -> "EmulatedDraftSession":
        """See ``Drafter.open``."""
        if self._room == 0:
            raise Busy("no draft session is free")
        self._room -= 1
        return EmulatedDraftSession(self, committed, params)

    def give_back(self) -> None:
        """One session closed."""
        self._room += 1

    def spend_pass(self) -> None:
        """Take the time of one pass."""
        self._sleep(self._pass_s)

    def propose(
        self, prefix: int, depth: int, params: SamplingParams
    ) -> tuple[list[int], list[float]]:
        """Children, at ``depth``, of the node with this prefix hash: tokens (k), scores (k)."""
        dial = min(depth, len(self._agreement)) - 1
        truth = self.text.choice(prefix, params)
        draw = mix(prefix ^ _RANK_SALT)
        token = _others(truth, draw, self.branch, self.text.vocab_size)
        rank = _rank(self._agreement[dial], ((draw >> 11) | 1) * UNIT)
        if rank < self.branch:
            token[rank] = truth
        return token, self._scores[dial]


class EmulatedDraftSession:
    """One session's state: the tree as last seen, and the prefix hash of each of its nodes."""

    def __init__(
        self, drafter: EmulatedDrafter, committed: IntArray, params: SamplingParams
    ) -> None:
        _check(len(committed) > 0, "a session starts on at least its root")
        self._drafter = drafter
        self._params = params
        self._seen = TokenTree.root_only(int(committed[-1]))
        self._prefix = [drafter.text.fold_all(committed)]
        self._asked: set[int] = set()
        self._expanded: set[int] = set()
        self._is_open = True

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """See ``DraftSession.expand``."""
        _check(self._is_open, "the session is closed")
        asked = [int(node) for node in nodes]
        self._check_nodes(tree, asked)
        self._see(tree)
        self._asked.update(asked)
        self._expanded.update(asked)
        token = np.empty((len(asked), self._drafter.branch), dtype=np.int32)
        logprob = np.empty(token.shape, dtype=np.float32)
        for row, node in enumerate(asked):
            depth = int(tree.depth[node]) + 1
            proposed = self._drafter.propose(self._prefix[node], depth, self._params)
            token[row], logprob[row] = proposed
        self._drafter.spend_pass()
        return Expansion(token, logprob)

    def reroot(self, rerooting: Rerooting) -> None:
        """See ``DraftSession.reroot``."""
        _check(self._is_open, "the session is closed")
        _check(len(rerooting.committed) > 0, "a verdict commits at least the bonus token")
        root = self._prefix[0]
        for token in rerooting.committed:
            root = self._drafter.text.fold(root, int(token))
        # Ids ascend, so the kept nodes that were seen come first; the others come back as new.
        kept = rerooting.kept[rerooting.kept < len(self._seen)]
        prefix = [self._prefix[node] for node in kept] or [root]
        _check(prefix[0] == root, "the new root does not spell what was committed")
        self._prefix = prefix
        self._seen = _seen_after(self._seen, kept, int(rerooting.committed[-1]))
        self._expanded = {
            new for new, old in enumerate(rerooting.kept) if int(old) in self._expanded
        }
        self._asked = set()

    def close(self) -> None:
        """See ``DraftSession.close``."""
        if self._is_open:
            self._is_open = False
            self._drafter.give_back()

    def _see(self, tree: TokenTree) -> None:
        for node in range(len(self._prefix), len(tree)):
            above = self._prefix[tree.parent[node]]
            self._prefix.append(self._drafter.text.fold(above, int(tree.token[node])))
        self._seen = tree

    def _check_nodes(self, tree: TokenTree, asked: list[int]) -> None:
        n = len(self._seen)
        _check(
            len(tree) >= n
            and np.array_equal(tree.token[:n], self._seen.token)
            and np.array_equal(tree.parent[:n], self._seen.parent),
            "between two reroots a tree only grows at its end",
        )
        _check(len(set(asked)) == len(asked), "a node is asked once")
        for node in asked:
            _check(0 <= node < len(tree), f"node {node} is not in the tree")
            _check(node not in self._asked, f"node {node} was asked before")
            parent = int(tree.parent[node])
            _check(node == 0 or parent in self._expanded, f"node {node} came before its parent")


def _seen_after(seen: TokenTree, kept: IntArray, root_token: int) -> TokenTree:
    if len(kept) == 0:
        return TokenTree.root_only(root_token)
    new_id = np.full(len(seen), -1, dtype=np.int32)
    new_id[kept] = np.arange(len(kept), dtype=np.int32)
    parent = new_id[seen.parent[kept]]
    parent[0] = -1
    return TokenTree.from_parents(seen.token[kept], parent)


def _others(truth: int, draw: int, count: int, vocab_size: int) -> list[int]:
    """``count`` distinct tokens that are not ``truth``."""
    offset = draw % (vocab_size - 1)
    return [(truth + 1 + (offset + i) % (vocab_size - 1)) % vocab_size for i in range(count)]


def _rank(agreement: float, u: float) -> int:
    """At which rank the target's token is found, from a number in (0, 1): each further child is
    it with probability ``agreement``, given that none before was."""
    if agreement <= 0.0:
        return _NEVER
    if agreement >= 1.0:
        return 0
    return int(min(math.log(u) / math.log1p(-agreement), _NEVER))


def _scores(agreement: float, count: int) -> list[float]:
    """Honest log-probabilities by rank, but for the hopeless, which get some small ones."""
    return [
        math.log(max(agreement * (1.0 - agreement) ** rank, _LEAST_PROBABILITY * 0.5**rank))
        for rank in range(count)
    ]


def _check(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise ProtocolViolation(message)
