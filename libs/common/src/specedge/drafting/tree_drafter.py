"""Drafts the tree of every round of one session, and learns from every verdict.

Synchronous, no I/O, no torch, no clock but the one it is given to measure passes with: it puts the
pure growth of ``specedge.tree`` on top of a ``DraftSession``. Called only from the compute thread
that owns the drafter.

The working tree holds all nodes drafted so far, sent or not. While a draft is out it may go on
growing (proactive drafting). A verdict moves its root: what hung below the new root stays, with its
KV, and is the head start of the next round, which runs as many passes less as levels are there.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Final

import numpy as np

from specedge.drafting.counts import DraftCounts
from specedge.drafting.growth_rule import GrowthRule, PassRecord
from specedge.engine.ports import Drafter, DraftSession, Expansion
from specedge.errors import ModelUnusable, ProtocolViolation
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.tree.ahead import AheadPolicy, OfferPolicy, levels_there, plan_ahead, select_ahead
from specedge.tree.calibration import Calibration, ScoreKind, Tally, outcomes
from specedge.tree.grow import (
    EMPTY,
    GrowingTree,
    Proposals,
    Selection,
    add_children,
    plan_pass,
    select,
    take,
)
from specedge.tree.path import find_nodes, reroot
from specedge.tree.token_tree import IntArray, TokenTree

MAX_RECORDS: Final = 256
_IDLE: Final = DraftPolicy(depth=0, budget=0)


class TreeDrafter:
    """One session's drafting. ``tally`` is what all sessions of this drafter and target learned;
    ``now_s`` measures passes, in seconds from any moment.

    A round is ``draft(policy)``, or ``begin(policy)``, ``step()`` as long as there is time and it
    expands anything, and ``finish()``; then ``on_verdict``. Every ``step`` is one pass of the
    drafter, so a caller may stop between any two. Between ``finish`` and the verdict come as many
    ``step_ahead``, one pass each, as there is time for. After an error of the drafter only
    ``close`` may be called, and then ``start``.

    is_at_end  the last pass found the drafter's positions at their end
    """

    def __init__(
        self,
        drafter: Drafter,
        tally: Tally | None = None,
        now_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._drafter = drafter
        self._tally = Tally() if tally is None else tally
        self._session: DraftSession | None = None
        self._params = SamplingParams()
        self._stop_ids: frozenset[int] = frozenset()
        self._remaining: int | None = None
        self._calibration = Calibration(self._tally)
        self._committed: list[int] = []
        self._growing = GrowingTree.start(TokenTree.root_only(0))
        self._policy, self._passes, self._passes_there, self._max_passes = _IDLE, 0, 0, 0
        self._rule: GrowthRule | None = None
        self._kind = ScoreKind.LOGPROB
        self._sent = select(self._growing.tree, 0)
        self.is_at_end = False
        self._now_s = now_s
        self._records: deque[PassRecord] = deque(maxlen=MAX_RECORDS)
        self._totals = asdict(DraftCounts())

    @property
    def counts(self) -> DraftCounts:
        """Totals so far. May be read from any thread."""
        return DraftCounts(**self._totals)

    @property
    def growing(self) -> GrowingTree:
        """The working tree as it is now."""
        return self._growing

    @property
    def session(self) -> DraftSession:
        """The drafter's own part. Raises ProtocolViolation if there is none."""
        if self._session is None:
            raise ProtocolViolation("the drafter was not started, or is closed")
        return self._session

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
        self._calibration = Calibration(self._tally, is_greedy=params.is_greedy)
        self._restart(committed)

    def begin(self, policy: DraftPolicy, rule: GrowthRule | None = None) -> None:
        """A new round: ``policy`` bounds it, and ``rule`` says what is worth while within these
        bounds (None: all), until the next one. Runs no pass."""
        if self._remaining is not None:
            # The bonus is a token too: a path one shorter than what remains is the longest useful.
            policy = replace(policy, depth=max(0, min(policy.depth, self._remaining - 1)))
        self._policy, self._rule = policy, rule
        there = min(levels_there(self._growing, self._stop_ids), policy.depth)
        self._passes = self._passes_there = there
        self._max_passes = policy.depth if policy.passes is None else there + policy.passes
        self._count(passes_saved=there)

    def step(self) -> int:
        """Run one pass, if one can still improve what this round sends: how many nodes it expanded;
        0 too where the drafter's positions end.

        Raises what the drafter raises, and ModelUnusable if it proposes nonsense.
        """
        nodes = self.plan_step()
        if len(nodes):
            self.take_step(nodes, *self._run(nodes))
        return 0 if self.is_at_end else len(nodes)

    def plan_step(self) -> IntArray:
        """What ``step`` would expand, (m,) int32 ids into ``growing.tree``: none if the round is as
        large as it should be. For a caller that runs the pass itself, for several sessions at once:
        ``take_step`` takes the outcome."""
        if self._passes >= min(self._policy.depth, self._max_passes):
            return EMPTY
        nodes = plan_pass(self._growing, self._policy, self._stop_ids)
        if self._rule is not None and len(nodes):
            tree = self._growing.tree
            value = select(tree, len(tree), self._policy.depth).tree.value[1:]
            depth = np.asarray(tree.depth[nodes], dtype=np.float32)
            rule = self._rule.after(self._passes - self._passes_there)
            nodes = nodes[: rule.num_expanded(value, tree.value[nodes], depth)]
        return nodes

    def take_step(self, nodes: IntArray, expansion: Expansion, ms: float) -> None:
        """The pass over what ``plan_step`` said gave ``expansion`` and took ``ms``. Raises
        ModelUnusable if that is nonsense."""
        self._absorb(nodes, expansion, ms, self._policy.branch)
        self._passes += 1
        self._count(passes=1)

    def step_ahead(self, policy: AheadPolicy) -> int:
        """Run one pass beyond what ``finish`` returned, if one is worth it: how many nodes it
        expanded. Changes nothing of what was sent. Raises as ``step`` does."""
        last = None if self._remaining is None else self._remaining - 1
        nodes = plan_ahead(
            self._growing, self._sent.ids, policy, max_depth=last, stop_ids=self._stop_ids
        )
        if len(nodes):
            self._absorb(nodes, *self._run(nodes), policy.branch, is_ahead=True)
            self._count(passes_ahead=1)
        return 0 if self.is_at_end else len(nodes)

    def offer(self, policy: OfferPolicy) -> TokenTree:
        """What to send before the verdict on what ``finish`` returned: the root alone if nothing is
        worth it. Changes nothing."""
        return select_ahead(self._growing, self._sent.ids, policy)

    def follow(self, tree: TokenTree) -> None:
        """After a verdict, in place of a round's ``begin`` and ``finish``: ``tree`` is out already,
        being a part of what ``offer`` returned. ``step_ahead`` may go on, and ``on_verdict`` is
        about it."""
        ids = find_nodes(self._growing.tree, tree)
        self._sent = Selection(take(self._growing.tree, ids), ids)
        self._count(nodes_sent=self._sent.tree.num_drafted)

    def finish(self) -> Selection:
        """What this round sends, ready for the wire: any prefix of it is a tree. Valid until the
        next verdict; ``step`` may go on meanwhile."""
        tree, policy = self._growing.tree, self._policy
        sent = select(tree, policy.budget, policy.depth, policy.floor)
        if self._rule is not None:
            budget = self._rule.num_sent(sent.tree.value[1:])
            sent = select(tree, budget, policy.depth, policy.floor)
        self._sent = sent
        self._count(nodes_sent=self._sent.tree.num_drafted)
        return self._sent

    def draft(self, policy: DraftPolicy, rule: GrowthRule | None = None) -> TokenTree:
        """A whole round without interruption."""
        self.begin(policy, rule)
        while self.step():
            pass
        return self.finish().tree

    def take_records(self) -> tuple[PassRecord, ...]:
        """The passes since this was last called, those ahead included; the newest ones if there
        were very many."""
        records = tuple(self._records)
        self._records.clear()
        return records

    def on_verdict(
        self, path_tokens: Sequence[int], bonus: int, num_tried: int | None = None
    ) -> None:
        """The verdict on what ``finish`` returned; only its first ``num_tried`` nodes were tried
        (all by default). Learns from it, and moves to the new root."""
        committed = np.array([*path_tokens, bonus], dtype=np.int32)
        tried = self._sent.ids[1:] if num_tried is None else self._sent.ids[1 : num_tried + 1]
        self._calibration.observe(outcomes(self._growing.tree, tried, committed), self._kind)
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
        self.session.close()
        self._session = None
        self._session = self._drafter.open(committed, self._params)
        self._restart(committed)

    def close(self) -> None:
        """Give the drafter's slot back. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _run(self, nodes: IntArray) -> tuple[Expansion, float]:
        """One pass of the drafter, and its milliseconds."""
        began_s = self._now_s()
        expansion = self.session.expand(self._growing.tree, nodes)
        return expansion, 1e3 * (self._now_s() - began_s)

    def _absorb(
        self,
        nodes: IntArray,
        expansion: Expansion,
        ms: float,
        branch: int,
        *,
        is_ahead: bool = False,
    ) -> None:
        tree = self._growing.tree
        token, logprob = expansion.token[:, :branch], expansion.logprob[:, :branch]
        if np.isnan(logprob).any():
            raise ModelUnusable(f"the drafter {self._drafter.name} computes NaN")
        self._kind = expansion.kind
        accept = self._calibration.accept(logprob, tree.depth[nodes] + 1, self._kind)
        self._growing = add_children(self._growing, nodes, Proposals(token, logprob, accept))
        self.is_at_end = expansion.is_beyond
        if not self.is_at_end:  # else it took no time
            self._records.append(PassRecord(len(nodes), ms, accept, tree.depth[nodes], is_ahead))
        self._count(nodes_drafted=len(self._growing.tree) - len(tree))

    def _restart(self, committed: IntArray) -> None:
        self._committed = [int(token) for token in committed]
        self._growing = GrowingTree.start(TokenTree.root_only(self._committed[-1]))
        self._await_round()

    def _advance(self, committed: IntArray) -> bool:
        """Move the root; whether the new one was in the working tree."""
        rerooting, tree = reroot(self._growing.tree, committed)
        self.session.reroot(rerooting)
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
        self._policy, self._passes, self._rule = _IDLE, 0, None
        self._sent = select(self._growing.tree, 0)

    def _count(self, **more: int) -> None:
        for name, count in more.items():
            self._totals[name] += count
