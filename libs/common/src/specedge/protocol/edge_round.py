"""The current round as an edge says it: its number, its tries, and what is out. Changed by
the edge session alone."""

from dataclasses import dataclass, field
from typing import Final

from specedge.ids import Round
from specedge.protocol.messages import MAX_NODES, Ahead, Draft, Verdict
from specedge.protocol.token_log import TokenLog
from specedge.protocol.wire_tree import continued, first_nodes, to_wire
from specedge.tree.token_tree import TokenTree

FIRST_ROUND: Final = Round(0)


@dataclass(slots=True)
class EdgeRound:
    """One round at a time; a grant stays out over many.

    try_       the newest send of this round; -1: it was not sent
    sent_s     when each try of this round was sent
    tree       what is out: a tree, or None for a grant of ``run`` tokens up to base ``grant_end``
    has_asked_for_gap  a verdict beyond this round came, and the round was asked for
    sent_ahead what was sent beyond ``tree``, on the same root; None: nothing
    is_ahead   this round's own draft was sent ahead, with the round before
    is_timed   its answer tells what a round trip takes: nothing of it was on its way when it was
               sent, and no context is computed for it
    """

    number: Round = FIRST_ROUND
    try_: int = -1
    sent_s: dict[int, float] = field(default_factory=dict)
    tree: TokenTree | None = None
    run: int = 0
    grant_end: int = 0
    has_asked_for_gap: bool = False
    sent_ahead: TokenTree | None = None
    is_ahead: bool = False
    is_timed: bool = False

    def advance(self) -> None:
        """The round was answered."""
        self.number = Round(self.number + 1)
        self.try_ = -1
        self.sent_s.clear()
        self.has_asked_for_gap = False
        self.sent_ahead, self.is_ahead, self.is_timed = None, False, False

    def say_ahead(self, log: TokenLog, tree: TokenTree, nodes: int, max_nodes: int) -> Ahead:
        """The first ``max_nodes`` of ``tree``, which was drafted beyond what is out."""
        self.sent_ahead = first_nodes(tree, min(max_nodes, MAX_NODES))
        token, parent = to_wire(self.sent_ahead, MAX_NODES)
        return Ahead(
            round=self.number,
            base=len(log),
            hash=log.hash_at(len(log)),
            token=token,
            parent=parent,
            nodes=nodes,
        )

    def next_tree(self, verdict: Verdict) -> TokenTree | None:
        """What the verifier tries already by this verdict: of what was sent ahead, the nodes that
        it says. None: nothing, or nothing that is known here."""
        if verdict.ahead == 0 or self.sent_ahead is None:
            return None
        tree = continued(self.sent_ahead, (*verdict.path, verdict.bonus), verdict.ahead)
        return tree if tree.num_drafted == verdict.ahead else None

    def follow(self, tree: TokenTree, now_s: float) -> None:
        """The round was answered, and the next one, with ``tree``, is at the verifier as if it had
        been sent now."""
        self.advance()
        self.tree, self.run, self.is_ahead = tree, 0, True
        self.try_ = 0
        self.sent_s[0] = now_s

    def has_tried(self, verdict: Verdict) -> bool:
        """Whether ``verdict`` looked at the tree that is out: a grant that ran ahead may have
        answered the round before the tree got there."""
        is_empty = self.tree is None or self.tree.num_drafted == 0
        return verdict.kept > 0 or (is_empty and verdict.own == 0)

    def say(
        self, log: TokenLog, at: str, max_nodes: int, wait_s: float, now_s: float, is_repeat: bool
    ) -> Draft:
        """The next try of this round. Try 0 of a grant extends the one that runs; a repeated grant
        is at least try 1, which asks the verifier to start again from our base."""
        self.try_ = max(self.try_ + 1, 1 if is_repeat else 0)
        self.sent_s[self.try_] = now_s
        self.grant_end = len(log) + self.run
        limit = min(max_nodes, MAX_NODES)
        token, parent = ((), ()) if self.tree is None else to_wire(self.tree, limit)
        return Draft(
            round=self.number,
            try_=self.try_,
            at=at,
            base=len(log),
            hash=log.hash_at(len(log)),
            token=token,
            parent=parent,
            run=self.run,
            budget_ms=round(2e3 * wait_s),
        )
