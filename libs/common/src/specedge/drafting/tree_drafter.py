"""Drafts the tree of every round of one session, and learns from every verdict.

Synchronous, no I/O, no clock, no torch: it puts the pure growth of ``specedge.tree`` on top of a
``DraftSession``. Called only from the compute thread that owns the drafter.

The working tree holds all nodes drafted so far, sent or not. A verdict moves its root: what hung
below the new root stays, with its KV, and is the head start of the next round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from specedge.engine.ports import Drafter, DraftSession
from specedge.errors import ProtocolViolation
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.tree.calibration import Calibration, Tally, outcomes
from specedge.tree.grow import GrowingTree, Proposals, Selection, add_children, plan_pass, select
from specedge.tree.path import reroot
from specedge.tree.token_tree import IntArray, TokenTree

_IDLE = DraftPolicy(depth=0, budget=0)


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """Totals of a session, for metrics.

    nodes_drafted  put into working trees       nodes_sent    selected by ``finish``
    nodes_reused   alive after a verdict, so drafted before the round that could send them
    verdicts       of drafted rounds            hits          verdicts whose bonus was in the tree
    """

    passes: int = 0
    nodes_drafted: int = 0
    nodes_sent: int = 0
    nodes_reused: int = 0
    verdicts: int = 0
    hits: int = 0


class TreeDrafter:
    """One session's drafting. ``tally`` is what all sessions of this drafter and target learned.

    A round is ``draft(policy)``, or ``begin(policy)``, ``step()`` as long as there is time and it
    returns True, and ``finish()``; then ``on_verdict``. Every ``step`` is one pass of the drafter,
    so a caller may stop between any two.
    """

    def __init__(self, drafter: Drafter, tally: Tally | None = None) -> None:
        self._drafter = drafter
        self._tally = Tally() if tally is None else tally
        self._session: DraftSession | None = None
        self._params = SamplingParams()
        self._stop_ids: frozenset[int] = frozenset()
        self._remaining: int | None = None
        self._calibration = Calibration(self._tally)
        self._committed: list[int] = []
        self._growing = GrowingTree.start(TokenTree.root_only(0))
        self._policy, self._passes = _IDLE, 0
        self._sent = select(self._growing.tree, 0)
        self.counts = DraftCounts()

    def start(
        self, committed: IntArray, params: SamplingParams, stop: StopRule | None = None
    ) -> None:
        """Open on ``committed`` ((base,) int32, the root last); at most once between two closes.

        With ``stop``, nothing is drafted beyond its stop ids, nor beyond the ``max_tokens`` that
        are still to be generated from here. Raises Busy when the drafter has no slot left.
        """
        if self._session is not None:
            raise ProtocolViolation("the drafter was started already")
        self._session = self._drafter.open(committed, params)
        self._params = params
        self._stop_ids = stop.stop_ids if stop is not None else frozenset()
        self._remaining = stop.max_tokens if stop is not None else None
        self._calibration = Calibration(self._tally)
        self._restart(committed)

    def begin(self, policy: DraftPolicy) -> None:
        """A new round: ``policy`` holds until the next one. Runs no pass."""
        if self._remaining is not None:
            # The bonus is a token too: a path one shorter than what remains is the longest useful.
            policy = replace(policy, depth=max(0, min(policy.depth, self._remaining - 1)))
        self._policy = policy
        self._passes = 0

    def step(self) -> bool:
        """Run one pass, if one can still improve what this round sends; whether it did."""
        if self._passes >= self._policy.depth:
            return False
        nodes = plan_pass(self._growing, self._policy, self._stop_ids)
        if len(nodes) == 0:
            return False
        tree = self._growing.tree
        expansion = self._open_session().expand(tree, nodes)
        token = expansion.token[:, : self._policy.branch]
        logprob = expansion.logprob[:, : self._policy.branch]
        accept = self._calibration.accept(logprob, tree.depth[nodes] + 1)
        self._growing = add_children(self._growing, nodes, Proposals(token, logprob, accept))
        self._passes += 1
        self._count(passes=1, nodes_drafted=len(self._growing.tree) - len(tree))
        return True

    def finish(self) -> Selection:
        """What this round sends, ready for the wire: any prefix of it is a tree. Valid until the
        next verdict; ``step`` may go on meanwhile."""
        tree, policy = self._growing.tree, self._policy
        self._sent = select(tree, policy.budget, policy.depth, policy.floor)
        self._count(nodes_sent=self._sent.tree.num_drafted)
        return self._sent

    def draft(self, policy: DraftPolicy) -> TokenTree:
        """A whole round without interruption."""
        self.begin(policy)
        while self.step():
            pass
        return self.finish().tree

    def on_verdict(
        self, path_tokens: Sequence[int], bonus: int, num_tried: int | None = None
    ) -> None:
        """The verdict on what ``finish`` returned; only its first ``num_tried`` nodes were tried
        (all by default). Learns from it, and moves to the new root."""
        committed = np.array([*path_tokens, bonus], dtype=np.int32)
        tried = self._sent.ids[1:] if num_tried is None else self._sent.ids[1 : num_tried + 1]
        self._calibration.observe(outcomes(self._growing.tree, tried, committed))
        is_hit = self._advance(committed)
        self._count(verdicts=1, hits=int(is_hit), nodes_reused=self._growing.tree.num_drafted)

    def on_append(self, tokens: Sequence[int]) -> None:
        """``tokens`` (one or more) were committed otherwise than by a verdict on a draft: by a
        hosted run, or as a new turn of a conversation."""
        self._advance(np.array(tokens, dtype=np.int32))

    def resync(self, committed: IntArray) -> None:
        """``committed`` is what the session's context now is, whatever was known before. Continues
        if it merely got longer, else opens the drafter anew; what was learned stays."""
        known = len(self._committed)
        if len(committed) >= known and np.array_equal(committed[:known], self._committed):
            if len(committed) > known:
                self.on_append(committed[known:].tolist())
            return
        self._open_session().close()
        self._session = None
        self._session = self._drafter.open(committed, self._params)
        self._restart(committed)

    def close(self) -> None:
        """Give the drafter's slot back. Idempotent."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _restart(self, committed: IntArray) -> None:
        self._committed = [int(token) for token in committed]
        self._growing = GrowingTree.start(TokenTree.root_only(self._committed[-1]))
        self._await_round()

    def _advance(self, committed: IntArray) -> bool:
        """Move the root; whether the new one was in the working tree."""
        rerooting, tree = reroot(self._growing.tree, committed)
        self._open_session().reroot(rerooting)
        self._growing = (
            GrowingTree(tree, self._growing.expanded[rerooting.kept])
            if rerooting.is_hit
            else GrowingTree.start(tree)
        )
        self._committed.extend(committed.tolist())
        if self._remaining is not None:
            self._remaining = max(0, self._remaining - len(committed))
        self._await_round()
        return rerooting.is_hit

    def _await_round(self) -> None:
        """Between a verdict and ``begin`` nothing is drafted, and nothing is out."""
        self._policy, self._passes = _IDLE, 0
        self._sent = select(self._growing.tree, 0)

    def _open_session(self) -> DraftSession:
        if self._session is None:
            raise ProtocolViolation("the drafter was not started, or is closed")
        return self._session

    def _count(self, **more: int) -> None:
        totals = {name: getattr(self.counts, name) + count for name, count in more.items()}
        self.counts = replace(self.counts, **totals)
