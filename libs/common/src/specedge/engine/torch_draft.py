"""A causal language model as drafter: proposes children, and keeps the KV of the tree it grows.

Implements ``Drafter``. Owns which row of a session's slot holds which node. What to expand, and
what a node is worth, is decided elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from specedge.engine.draft_head import DraftHead
from specedge.engine.draft_ranking import Coupled, Likeliest, Ranking
from specedge.engine.kv_cache import SlottedKVCache
from specedge.engine.memory_shortage import leaving_nothing
from specedge.engine.ports import DraftSession, ExpandAsked, Expansion
from specedge.engine.recall import Recalled, Recollection
from specedge.engine.step_table import Span, chain_span
from specedge.engine.torch_model import LoadedModel
from specedge.engine.tree_model import TreeModel, self_check
from specedge.errors import Busy, ProtocolViolation
from specedge.params import SamplingParams
from specedge.tree.mask import lineage
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import IntArray, TokenTree

# A long context is computed in pieces, so that no bias or activation grows with it.
PREFILL_CHUNK_TOKENS: Final = 512
# Room for a tree beyond the context when a session opens; the slot grows when it is not enough.
TREE_ROOM_ROWS: Final = 64
# At a position where the model may not go any further, and for a row that is garbage.
NOTHING: Final = -1


class TorchDrafter:
    """A loaded model that drafts. One owner thread; see ``Drafter`` for the contract.

    num_children  proposed per node
    coupled       rank with the target's own noise where it draws any
    recalls       blend in what followed the same words before in a session's own text
    may_round     the model's weights may be rounded where that makes it quicker
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        kv_bytes: int,
        num_slots: int = 8,
        num_children: int = 8,
        coupled: bool = False,
        recalls: bool = False,
        may_round: bool = False,
    ) -> None:
        self._name = loaded.identity.name
        self.vocab_size = loaded.identity.vocab_size
        self.max_context_tokens = loaded.identity.max_context_tokens
        self.head = DraftHead(self.vocab_size, loaded.head_tokens)
        self.head.check_width(loaded.model.get_output_embeddings().out_features)
        self.num_children = min(num_children, len(self.head))
        self._coupled = coupled
        self._recalls = recalls
        self.tree_model = TreeModel(
            loaded.model,
            num_slots=num_slots,
            kv_bytes=kv_bytes,
            may_round=may_round,
            is_exact=False,
        )
        self_check(self.tree_model)
        self.tree_model.capture()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    def open(self, committed: IntArray, params: SamplingParams) -> "TorchDraftSession":
        """Start on ``committed``; computes nothing yet. Raises Busy when no slot is left."""
        return TorchDraftSession(self, committed, params)

    @leaving_nothing()
    @torch.inference_mode()
    def expand_together(self, asked: Sequence[ExpandAsked]) -> list[Expansion | None]:
        """One pass for several sessions; see ``BatchingDrafter.expand_together``."""
        shares = [_plan(one) for one in asked]
        spans = [span for share in shares if share is not None for span in share.spans]
        logits = self.tree_model.forward(spans) if spans else None
        expansions: list[Expansion | None] = []
        done = 0
        for one, share in zip(asked, shares, strict=True):
            if share is None:
                expansions.append(None)
                continue
            rows = slice(done, done + len(share.answered))
            done = rows.stop
            own = None if logits is None or not share else logits[rows]
            expansions.append(_of_torch(one.session).take(share, own))
        return expansions

    def recollection(self, committed: IntArray) -> Recollection | None:
        """What a session on ``committed`` remembers; None where drafters do not."""
        return Recollection(committed, self.num_children) if self._recalls else None

    def ranking(self, params: SamplingParams) -> Ranking:
        """How a session with ``params`` ranks the children."""
        kind = Coupled if self._coupled and not params.is_greedy else Likeliest
        return kind(self.head, params, self.num_children, self.tree_model.device)


@dataclass(frozen=True, slots=True, eq=False)
class PassShare:
    """One session's part of a pass over ``nodes`` (m,) int32.

    answered   (a,) which of them get children, as indices, in the order of the spans' logits
    positions  (m,) int32 of the tokens to be chosen
    recalled   for the answered ones, in their order; None where nothing was
    """

    nodes: IntArray
    answered: npt.NDArray[np.intp]
    positions: IntArray
    spans: tuple[Span, ...]
    recalled: Recalled | None

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.spans)


class TorchDraftSession:
    """One session: committed tokens, a prefix of them in the cache, and the tree's nodes behind.

    Rows of the slot, half open (base committed tokens, v of them computed):

        [0, v)             committed; v == base once the root was expanded
        [base, base + r)   nodes, row base + i holding node ``_node_rows[i]``, in order of expansion

    There are node rows only while v == base. ``reroot`` makes, of a path of d nodes whose KV is
    there, and with the new root's KV too on a hit:

        [0, base + d + 1)  committed     [base + d + 1, …)  kept nodes     on a hit
        [0, base + d)      committed     nothing                           on a miss
    """

    def __init__(self, drafter: TorchDrafter, committed: IntArray, params: SamplingParams) -> None:
        self._drafter = drafter
        self._cache: SlottedKVCache = drafter.tree_model.cache
        self._committed: IntArray = np.array(committed, dtype=np.int32)
        self._ranking = drafter.ranking(params)
        self._recollection = drafter.recollection(self._committed)
        self._slot = self._cache.lease(len(committed) + TREE_ROOM_ROWS)  # last: nothing raises now
        self._num_valid = 0
        self._node_rows: IntArray = np.empty(0, dtype=np.int32)
        self._is_open = True

    @leaving_nothing()
    @torch.inference_mode()
    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """Children of ``nodes`` by falling score; see ``DraftSession.expand``.

        Nodes at the end of the model's positions get none. Raises Busy when the cache is full,
        ProtocolViolation for a node whose parent was never expanded.
        """
        share = self.plan(tree, nodes)
        return self.take(share, self._drafter.tree_model.forward(share.spans) if share else None)

    def plan(self, tree: TokenTree, nodes: IntArray) -> "PassShare":
        """This session's share of a pass over ``nodes``, to be run at once. In inference mode,
        since a long context is computed up to its last piece; raises as ``expand`` does."""
        position = len(self._committed) - 1 + tree.depth[nodes]
        asked = np.flatnonzero(position < self._drafter.max_context_tokens)
        root, others = asked[nodes[asked] == 0], asked[nodes[asked] > 0]
        # First, since making room for them may move all rows.
        spans = [self._node_span(tree, nodes[others])] if len(others) else []
        if len(root):
            spans.insert(0, self._root_span())
        answered = np.concatenate([root, others])
        recalled = self._recollection.of(tree, nodes[answered]) if self._recollection else None
        return PassShare(nodes, answered, position + 1, tuple(spans), recalled)

    def take(self, share: "PassShare", logits: Tensor | None) -> Expansion:
        """The children, from the pass's logits at this session's rows; None: it had no rows."""
        nodes, answered = share.nodes, share.answered
        token = np.full((len(nodes), self._drafter.num_children), NOTHING, dtype=np.int32)
        logprob = np.full(token.shape, -np.inf, dtype=np.float32)
        if logits is not None:
            best = self._ranking.best(logits, share.positions[answered], share.recalled)
            token[answered], logprob[answered] = best
            self._num_valid = len(self._committed)
            computed = nodes[answered]
            self._node_rows = np.concatenate([self._node_rows, computed[computed > 0]])
        return Expansion(token, logprob, self._ranking.kind, is_beyond=logits is None)

    @property
    def num_unread(self) -> int:
        """See ``ReadingSession.num_unread``."""
        base = len(self._committed)
        return base - self._num_valid if base <= self._drafter.max_context_tokens else 0

    @leaving_nothing()
    @torch.inference_mode()
    def read(self, num_tokens: int) -> None:
        """See ``ReadingSession.read``."""
        self._make_room(len(self._committed))
        self._compute(num_tokens)

    @torch.inference_mode()
    def reroot(self, rerooting: Rerooting) -> None:
        """Move to the new root; rows of nodes that do not live on are forgotten by index."""
        base = len(self._committed)
        row_of = {int(node): base + row for row, node in enumerate(self._node_rows)}
        on_path = [row_of.get(int(node), NOTHING) for node in rerooting.path]
        if rerooting.is_hit:
            on_path.append(row_of.get(int(rerooting.kept[0]), NOTHING))
        computed = on_path.index(NOTHING) if NOTHING in on_path else len(on_path)
        # New ids of kept nodes that have rows, in order of those rows. A new root without KV has
        # nothing computed below it.
        living = sorted(
            (row_of[int(old)], new)
            for new, old in enumerate(rerooting.kept[1:], start=1)
            if int(old) in row_of
        )
        rows = [*on_path[:computed], *(row for row, _ in living)]
        self._cache.move_rows(self._slot, np.array(rows, dtype=np.int32), base)
        if self._num_valid == base:
            self._num_valid = base + computed
        self._node_rows = np.array([new for _, new in living], dtype=np.int32)
        self._committed = np.concatenate([self._committed, rerooting.committed])
        self._ranking.forget_before(len(self._committed))
        if self._recollection is not None:
            self._recollection.reroot(rerooting)

    def close(self) -> None:
        """Give the slot back. Idempotent."""
        if self._is_open:
            self._is_open = False
            self._cache.release(self._slot)

    def _root_span(self) -> Span:
        """All committed tokens that are not computed yet, at least the root; a long context is
        computed up to its last piece here."""
        base = len(self._committed)
        self._make_room(base)
        while base - self._num_valid > PREFILL_CHUNK_TOKENS:
            self._compute(PREFILL_CHUNK_TOKENS)
        start = min(self._num_valid, base - 1)
        return self._chain(self._committed[start:], start, num_logits=1)

    def _compute(self, num_tokens: int) -> None:
        """The next ``num_tokens`` committed ones, for which there is room."""
        start = self._num_valid
        chunk = self._committed[start : start + num_tokens]
        self._drafter.tree_model.forward([self._chain(chunk, start, num_logits=0)])
        self._num_valid = start + len(chunk)

    def _chain(self, chain: IntArray, start: int, *, num_logits: int) -> Span:
        offset = self._cache.offset(self._slot)
        return chain_span(chain, start=start, offset=offset, num_logits=num_logits)

    def _node_span(self, tree: TokenTree, nodes: IntArray) -> Span:
        """New rows behind all others; each sees the context and its own ancestors' rows."""
        base = len(self._committed)
        parents = tree.parent[nodes]
        known = np.isin(parents, self._node_rows) | (parents == 0)
        if self._num_valid < base or not known.all():
            raise ProtocolViolation("a node is expanded only after its parent")
        start = base + len(self._node_rows)
        self._make_room(start + len(nodes))
        # A node that is asked again after a reroot gets a second row; the first is garbage.
        self._node_rows[np.isin(self._node_rows, nodes)] = NOTHING
        held = np.concatenate([self._node_rows, nodes])
        return Span(
            tokens=tree.token[nodes],
            positions=base - 1 + tree.depth[nodes],
            start=start,
            offset=self._cache.offset(self._slot),
            num_logits=len(nodes),
            recent=lineage(tree.parent, nodes)[:, held] & (held != NOTHING),
            recent_positions=base - 1 + tree.depth[held],
        )

    def _make_room(self, num_rows: int) -> None:
        # Node rows lie behind the committed ones, which are then all computed.
        held = len(self._node_rows)
        valid = len(self._committed) + held if held else self._num_valid
        self._cache.grow(self._slot, num_rows, valid)


def _plan(asked: ExpandAsked) -> PassShare | None:
    try:
        return _of_torch(asked.session).plan(asked.tree, asked.nodes)
    except Busy:
        return None


def _of_torch(session: DraftSession) -> TorchDraftSession:
    if not isinstance(session, TorchDraftSession):
        raise ProtocolViolation("a session of another drafter")
    return session
