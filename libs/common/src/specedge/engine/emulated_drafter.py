"""A drafter without a model, whose agreement with an emulated target is a dial or a recording.

It knows the target's token after every prefix, on the right path or not, and proposes it at a rank
drawn from an ``Agreement``. All is deterministic by hash. It does not know which ids a request
masks. Holds its caller to the ``DraftSession`` contract: wrong use raises ProtocolViolation.
Imports no torch.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from specedge.engine.emulated_agreement import Agreement, GeometricAgreement
from specedge.engine.emulated_contract import check
from specedge.engine.emulated_text import EmulatedText
from specedge.engine.ports import ExpandAsked, Expansion
from specedge.errors import Busy
from specedge.params import SamplingParams
from specedge.profiles import INSTANT, DeviceProfile
from specedge.sampling.noise import UNIT, mix
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import IntArray, TokenTree

# Keeps the drawing of ranks apart from that of tokens.
_RANK_SALT: Final = 0xA0761D6478BD642F


class EmulatedDrafter:
    """``Drafter`` for an ``EmulatedText``.

    agreement  an ``Agreement``, or the probabilities of a ``GeometricAgreement``
    sleep      gets seconds, once per pass, as ``profile.pass_ms`` says, after ``begin`` was called
               at its beginning
    """

    def __init__(
        self,
        text: EmulatedText | None = None,
        *,
        agreement: Agreement | Sequence[float] = (0.8,),
        branch: int = 4,
        profile: DeviceProfile = INSTANT,
        sleep: Callable[[float], None] = lambda _: None,
        begin: Callable[[], None] = lambda: None,
        max_sessions: int = 1024,
    ) -> None:
        self.text = text or EmulatedText()
        self.branch = min(branch, self.text.vocab_size - 1)
        self._agreement = (
            GeometricAgreement(agreement) if isinstance(agreement, Sequence) else agreement
        )
        self._profile = profile
        self._sleep = sleep
        self.begin_pass = begin
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

    def spend_pass(self, num_rows: int) -> None:
        """Take the time of one pass over so many nodes."""
        self._sleep(self._profile.pass_ms(num_rows) / 1e3)

    def expand_together(self, asked: Sequence[ExpandAsked]) -> list[Expansion | None]:
        """See ``BatchingDrafter.expand_together``: one pass over all."""
        self.begin_pass()
        proposed: list[Expansion | None] = []
        for one in asked:
            assert isinstance(one.session, EmulatedDraftSession)
            proposed.append(one.session.propose(one.tree, one.nodes))
        self.spend_pass(sum(len(one.nodes) for one in asked))
        return proposed

    def propose(
        self, prefix: int, depth: int, params: SamplingParams, position: int = 0
    ) -> tuple[list[int], Sequence[float]]:
        """Children, at ``depth`` and ``position``, of the node with this prefix hash: tokens (k),
        scores (k)."""
        truth = self.text.choice(prefix, params)
        draw = mix(prefix ^ _RANK_SALT)
        token = _others(truth, draw, self.branch, self.text.vocab_size)
        rank = self._agreement.rank(((draw >> 11) | 1) * UNIT, depth, position)
        if rank < self.branch:
            token[rank] = truth
        return token, self._agreement.scores(self.branch, depth, position)


class EmulatedDraftSession:
    """One session's state: the tree as last seen, and the prefix hashes of its nodes: of most nodes
    nobody ever asks, so they are worked out when somebody does."""

    def __init__(
        self, drafter: EmulatedDrafter, committed: IntArray, params: SamplingParams
    ) -> None:
        check(len(committed) > 0, "a session starts on at least its root")
        self._drafter = drafter
        self._params = params
        self._base = len(committed)
        self._seen = TokenTree.root_only(int(committed[-1]))
        self._prefix = {0: drafter.text.fold_all(committed)}
        self._asked: set[int] = set()
        self._expanded: set[int] = set()
        self._is_open = True

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """See ``DraftSession.expand``."""
        self._drafter.begin_pass()
        proposed = self.propose(tree, nodes)
        self._drafter.spend_pass(len(nodes))
        return proposed

    def propose(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """``expand``, but for the time it takes."""
        check(self._is_open, "the session is closed")
        asked = [int(node) for node in nodes]
        self._check_nodes(tree, asked)
        self._seen = tree
        self._asked.update(asked)
        self._expanded.update(asked)
        token = np.empty((len(asked), self._drafter.branch), dtype=np.int32)
        logprob = np.empty(token.shape, dtype=np.float32)
        for row, node in enumerate(asked):
            depth = int(tree.depth[node])
            token[row], logprob[row] = self._drafter.propose(
                self._prefix_of(node), depth + 1, self._params, self._base + depth
            )
        return Expansion(token, logprob)

    def reroot(self, rerooting: Rerooting) -> None:
        """See ``DraftSession.reroot``."""
        check(self._is_open, "the session is closed")
        check(len(rerooting.committed) > 0, "a verdict commits at least the bonus token")
        root = self._prefix[0]
        for token in rerooting.committed:
            root = self._drafter.text.fold(root, int(token))
        self._base += len(rerooting.committed)
        # Ids ascend, so the kept nodes that were seen come first; the others come back as new.
        kept = rerooting.kept[rerooting.kept < len(self._seen)]
        if len(kept):
            spelled = self._prefix_of(int(kept[0])) == root
            check(spelled, "the new root does not spell what was committed")
        known = {new: self._prefix.get(int(old)) for new, old in enumerate(kept)}
        self._prefix = {new: prefix for new, prefix in known.items() if prefix is not None}
        self._prefix[0] = root
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

    def _prefix_of(self, node: int) -> int:
        if node not in self._prefix:
            above = self._prefix_of(int(self._seen.parent[node]))
            token = int(self._seen.token[node])
            self._prefix[node] = self._drafter.text.fold(above, token)
        return self._prefix[node]

    def _check_nodes(self, tree: TokenTree, asked: list[int]) -> None:
        n = len(self._seen)
        check(
            len(tree) >= n
            and np.array_equal(tree.token[:n], self._seen.token)
            and np.array_equal(tree.parent[:n], self._seen.parent),
            "between two reroots a tree only grows at its end",
        )
        check(len(set(asked)) == len(asked), "a node is asked once")
        for node in asked:
            check(0 <= node < len(tree), f"node {node} is not in the tree")
            check(node not in self._asked, f"node {node} was asked before")
            parent = int(tree.parent[node])
            check(node == 0 or parent in self._expanded, f"node {node} came before its parent")


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
