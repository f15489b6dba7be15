"""The work of one session at its verifier, as values: what arrived, what was admitted, what was
asked of the engine, what was answered. All changes are made by the verifier session."""

from dataclasses import dataclass

from specedge.protocol.messages import Ahead, BatchItem, Draft, Verdict
from specedge.protocol.prefix_hash import hash_tokens, to_hex
from specedge.protocol.token_log import TokenLog
from specedge.protocol.wire_tree import continued, from_wire, to_wire
from specedge.tree.token_tree import IntArray, TokenTree


@dataclass(frozen=True, slots=True)
class VerifierSessionConfig:
    """Bounds of one session at a verifier.

    progress_s        between two signs of life to an edge that waits
    max_chain_tokens  committed tokens without KV that may share a step with a tree; more of them
                      are prefilled first, in pieces of the driver's choosing
    retry_ms          told to the edge when the engine failed and said no time itself
    """

    progress_s: float = 0.25
    max_chain_tokens: int = 64
    retry_ms: int = 200


@dataclass(slots=True, eq=False)
class Arrival:
    """Work as it came: progress extends ``deadline_s`` by the ``budget_s`` it came with."""

    item: BatchItem
    deadline_s: float
    budget_s: float

    @property
    def name(self) -> tuple[int, int]:
        """(round, try): newer is greater."""
        return self.item.round, self.item.try_


@dataclass(slots=True, eq=False)
class Job:
    """Admitted work: one round of it, starting at ``base`` and ``hash`` (those after append).

    deadline_s  None from a grant's second round on
    grant_end   the base at which a grant is used up; 0: a draft, not a grant
    ahead       what the edge drafted beyond this round's draft; None: nothing came, or not yet
    is_ahead    its own draft was sent ahead, with the round before: nobody asked for it since
    """

    item: BatchItem
    round: int
    try_: int
    base: int
    hash: str
    deadline_s: float | None
    budget_s: float
    grant_end: int = 0
    ahead: Ahead | None = None
    is_ahead: bool = False

    @property
    def is_hosted(self) -> bool:
        """Whether this is a round of a grant."""
        return self.grant_end > 0

    @property
    def grant_left(self) -> int:
        """Tokens of the grant that this round may commit: at least the one that every round does.
        Of a draft: 0."""
        return max(self.grant_end - self.base, 1) if self.is_hosted else 0

    def is_beneath(self, ahead: Ahead) -> bool:
        """Whether ``ahead`` was drafted beyond this very round."""
        start = (ahead.round, ahead.base, ahead.hash)
        return start == (self.round, self.base, self.hash) and not self.is_hosted

    def is_asked_by(self, draft: Draft) -> bool:
        """Whether ``draft`` asks for this very round, of this kind."""
        start = (draft.round, draft.base + len(draft.append), hash_at_start(draft))
        return start == (self.round, self.base, self.hash) and (draft.run > 0) == self.is_hosted


def job_ahead(
    job: Job, log: TokenLog, now_s: float, *, max_nodes: int, max_context: int
) -> Job | None:
    """The round after ``job``, whose verdict ``log`` holds already, with the draft that was sent
    ahead: None unless the verdict leads to nodes of it, none of them past the model's last
    position. At most ``max_nodes`` are tried."""
    if job.ahead is None:
        return None
    base, root = len(log), int(log.view(job.base - 1, job.base)[0])
    tree = from_wire(root, job.ahead)
    tree = continued(tree, log.view(job.base, base), min(job.ahead.nodes, max_nodes))
    if not 0 < tree.depth.max() <= max_context - base:
        return None
    token, parent = to_wire(tree, max_nodes)
    own = {"round": job.round + 1, "try_": 0, "base": base, "hash": log.hash_at(base)}
    unheld = {"append": (), "held_ms": 0.0, "next_ms": 0.0}
    item = job.item.model_copy(update={**own, **unheld, "token": token, "parent": parent})
    return Job(
        item=item,
        round=item.round,
        try_=0,
        base=base,
        hash=item.hash,
        deadline_s=now_s + job.budget_s,
        budget_s=job.budget_s,
        is_ahead=True,
    )


@dataclass(slots=True, eq=False)
class WantedStep:
    """The step asked for by the last ``WantStep``. ``key`` tells whether another would differ.

    limit  tokens that the step may commit, known once it has begun; None: no bound but the tree's
    """

    key: tuple[object, ...]
    start: int
    chain: IntArray
    tree: TokenTree | None
    job: Job | None
    num_chain: int = 0
    has_begun: bool = False
    limit: int | None = None

    def can_begin(self, num_chain: int) -> bool:
        """Whether a step may begin with so much of the chain: a tree needs all of it."""
        least = 1 if self.tree is None else len(self.chain)
        return not self.has_begun and least <= num_chain <= len(self.chain)

    def tried(self, own: TokenTree | None) -> TokenTree | None:
        """The tree that the step tried, given the driver's ``own``; None for prefill."""
        return self.tree if own is None else own

    def is_answered_by(self, choice: IntArray | None, own: TokenTree | None) -> bool:
        """Whether a step that ended with ``choice`` is this one: a choice per node, or prefill.
        An ``own`` tree of the driver's is in place in a hosted round only, on the same root."""
        if own is not None and not self._is_on_root(own):
            return False
        tried, size = self.tried(own), None if choice is None else len(choice)
        return self.has_begun and size == (None if tried is None else len(tried))

    def _is_on_root(self, own: TokenTree) -> bool:
        is_hosted = self.job is not None and self.job.is_hosted
        return is_hosted and self.tree is not None and own.token[0] == self.tree.token[0]


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """The last verdict, with the base and hash its round started from."""

    base: int
    hash: str
    verdict: Verdict

    def answers(self, draft: Draft) -> bool:
        """Whether the same work was asked for again. A grant is not answered by one verdict,
        unless that was the last there is."""
        if draft.round != self.verdict.round or (draft.run and self.verdict.final is None):
            return False
        return (draft.base + len(draft.append), hash_at_start(draft)) == (self.base, self.hash)


def hash_at_start(draft: Draft) -> str:
    """The hash after ``append``, where the round itself starts."""
    if not draft.append:
        return draft.hash
    return to_hex(hash_tokens(int(draft.hash, 16), draft.append))
