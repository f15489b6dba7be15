"""The engine ports: what a verifier asks of a target model, and an edge of a drafter.

Synchronous; called only from the one compute thread that owns the engine. Values in and out are
numpy: no tensor leaves ``specedge.engine``. Imports no torch.

KV rows of one slot during a step, half open (s rows valid before, c chain tokens, n nodes):

    [0, s)              valid before the step
    [s, s + c)          the chain: committed tokens without KV; the last one is the root
    [s + c, s + c+n-1)  the drafted nodes, node i at row s + c + i - 1

After ``keep(slot, base=s + c, path)`` rows [0, s + c + len(path)) are valid: the bonus token is the
next root and has no KV yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from specedge.ids import Slot
from specedge.params import SamplingParams
from specedge.tree.calibration import ScoreKind
from specedge.tree.path import Rerooting
from specedge.tree.token_tree import FloatArray, IntArray, TokenTree


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What two sides compare before they speak of tokens.

    weights_fingerprint    hash over the config and sampled tensors, 16 hex digits
    tokenizer_fingerprint  hash over the id → bytes table of the logical vocabulary and the special
                           tokens, 16 hex digits; never compare ``config.vocab_size``
    vocab_size             the logical vocabulary: ids 0 … vocab_size - 1 may cross the wire
    stop_ids               the model's end-of-text ids, ascending
    dtype                  what it computes in, by torch's name
    """

    name: str
    revision: str
    weights_fingerprint: str
    tokenizer_fingerprint: str
    vocab_size: int
    stop_ids: tuple[int, ...]
    max_context_tokens: int
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Choosing:
    """What the sampler needs to know of a session to pick tokens at a tree's nodes.

    committed   (base,) int32, prompt then generated tokens, the root last. Read for penalties only
    prompt_len  how many of them are prompt
    stop_ids    masked while fewer than ``params.min_tokens`` tokens were generated
    num_logprobs  log-probabilities wanted per node beside the chosen one's; -1: none at all
    """

    params: SamplingParams
    committed: IntArray
    prompt_len: int
    stop_ids: frozenset[int] = frozenset()
    num_logprobs: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class StepItem:
    """One session's part of a step.

    start     KV rows valid before the step
    chain     (c,) int32, c >= 1: committed tokens at positions start … start + c - 1
    tree      its root is chain[-1]; None for a prefill chunk, which yields no choice
    choosing  required exactly when ``tree`` is given
    """

    slot: Slot
    start: int
    chain: IntArray
    tree: TokenTree | None = None
    choosing: Choosing | None = None

    @property
    def num_rows(self) -> int:
        """Rows this item adds to the step's forward pass."""
        return len(self.chain) + (self.tree.num_drafted if self.tree is not None else 0)


@dataclass(frozen=True, slots=True, eq=False)
class NodeLogprobs:
    """Log-probabilities under the model's own distribution (before temperature and truncation).

    chosen  (n,) float32        of the choice at each node
    token   (n, k) int32        the k likeliest tokens at each node, falling
    logprob (n, k) float32
    """

    chosen: FloatArray
    token: IntArray
    logprob: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class NodeChoices:
    """The target's own token at each node of one item's tree: choice (n,) int32, root first."""

    choice: IntArray
    logprobs: NodeLogprobs | None = None


@dataclass(frozen=True, slots=True)
class KvUse:
    """How full the cache is: slots leased and in all, bytes held."""

    slots_used: int
    slots: int
    bytes_held: int


class TargetEngine(Protocol):
    """The large model with its KV cache. One owner thread; nothing here may be called from two."""

    @property
    def identity(self) -> ModelIdentity:
        """Names and fingerprints of the loaded model."""
        ...

    def lease(self, num_tokens: int) -> Slot:
        """Lease a slot that can hold ``num_tokens`` rows now; it grows by doubling when stepped.

        Raises Busy when no slot or no memory is left.
        """
        ...

    def release(self, slot: Slot) -> None:
        """Give a slot back; its rows are gone."""
        ...

    def step(self, items: Sequence[StepItem]) -> list[NodeChoices | None]:
        """One forward pass over all items, without padding; item i's choices, None for prefill.

        Writes the rows of chain and nodes into each slot. Slots are distinct within a step.
        Raises Busy when a slot cannot grow; then nothing was written that counts.
        """
        ...

    def keep(self, slot: Slot, base: int, path: IntArray) -> None:
        """Move the KV rows of the accepted nodes ``path`` (ascending node ids, each the child of
        the one before, the first a child of the root) to rows base … base + len(path) - 1.

        ``base`` is start + len(chain) of the step just run on this slot.
        """
        ...

    def copy_rows(self, source: Slot, destination: Slot, num_rows: int) -> None:
        """Copy rows [0, num_rows) of one slot into another (a shared prefix)."""
        ...

    def kv_use(self) -> KvUse:
        """For reports and metrics; cheap."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Expansion:
    """Proposed children of m nodes.

    token    (m, k) int32    -1 where a node has fewer than k children
    logprob  (m, k) float32  score, falling along a row; -inf where token is -1
    kind     what the scores are; the same for all of a session
    is_beyond  nothing was computed: the model's positions end before these nodes'
    """

    token: IntArray
    logprob: FloatArray
    kind: ScoreKind = ScoreKind.LOGPROB
    is_beyond: bool = False


class DraftSession(Protocol):
    """One session's state in a drafter. The tree of a round only ever grows at its end, so a node
    keeps its id until ``reroot``; the session keeps KV by node id."""

    def expand(self, tree: TokenTree, nodes: IntArray) -> Expansion:
        """One pass: propose children for ``nodes`` ((m,) int32 ids into ``tree``, each asked at
        most once between two reroots; a node's parent was expanded before it, or in no pass at all
        for the root)."""
        ...

    def reroot(self, rerooting: Rerooting) -> None:
        """A verdict came: move to the new root; see ``Rerooting`` for which nodes live on.

        Tokens of nodes that no ``expand`` has shown yet are found in ``rerooting.committed``.
        """
        ...

    def close(self) -> None:
        """Free what the session holds. Idempotent."""
        ...


@runtime_checkable
class ReadingSession(Protocol):
    """What a ``DraftSession`` may also be: one that computes a long context in pieces."""

    @property
    def num_unread(self) -> int:
        """Committed tokens that a pass over the root would have to compute, the root included; 0
        where there will be no such pass, since the model's positions end before."""
        ...

    def read(self, num_tokens: int) -> None:
        """Compute the first ``num_tokens`` of them, fewer than all. Raises Busy when the cache is
        full."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ExpandAsked:
    """What one session asks of a pass; see ``DraftSession.expand``."""

    session: DraftSession
    tree: TokenTree
    nodes: IntArray


class Drafter(Protocol):
    """Makes draft sessions. One owner thread."""

    @property
    def name(self) -> str:
        """For reports: a model's name, ``prompt-lookup`` or ``emulated``."""
        ...

    def open(self, committed: IntArray, params: SamplingParams) -> DraftSession:
        """Start on ``committed`` ((base,) int32, the root last). Computing may wait for ``expand``.

        Raises Busy when no slot is left.
        """
        ...


@runtime_checkable
class BatchingDrafter(Protocol):
    """What a ``Drafter`` may also be: one that runs a pass for several of its sessions at once, in
    little more time than for one."""

    def expand_together(self, asked: Sequence[ExpandAsked]) -> list[Expansion | None]:
        """As ``expand`` of each, in one pass; their sessions are distinct. None for a session that
        memory is too full for: nothing changed there."""
        ...
