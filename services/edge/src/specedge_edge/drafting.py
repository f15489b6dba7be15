"""Where a round's draft comes from: a drafter on the compute thread, or nobody (hosted grants).

A ``Proposer`` belongs to one generation. All computing happens on the compute thread, so that the
event loop never waits for it.
"""

from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from specedge.drafting.tree_drafter import TreeDrafter
from specedge.engine.ports import Drafter
from specedge.errors import Busy
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.protocol.effects import Committed, Drafted
from specedge.protocol.messages import Limits
from specedge.service.compute import ComputeThread
from specedge.tree.calibration import Tally
from specedge.tree.token_tree import IntArray, TokenTree

NO_DRAFTER: Final = "none"


class Proposer(Protocol):
    """Answers ``AskDraft``. Called by one generation's task, one call at a time."""

    async def propose(self, root: int, limits: Limits) -> Drafted:
        """The next round's draft on ``root``, within ``limits``. Cancelling it abandons the
        result; the drafter stays usable."""
        ...

    def on_committed(self, committed: Committed) -> None:
        """Tokens became certain. Cheap; computing waits for the next ``propose``."""
        ...

    async def close(self) -> None:
        """Free what the drafter holds. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DraftSource:
    """What makes proposers: a drafter (None: hosted), its thread, what its sessions learned
    together, and how much to draft. One per service."""

    drafter: Drafter | None
    compute: ComputeThread
    policy: DraftPolicy
    grant_tokens: int
    tally: Tally

    @property
    def name(self) -> str:
        """For the handshake and reports."""
        return NO_DRAFTER if self.drafter is None else self.drafter.name

    @property
    def depth(self) -> int:
        """The longest path a draft may hold."""
        return 0 if self.drafter is None else self.policy.depth

    def open(self, prompt: IntArray, params: SamplingParams, stop: StopRule) -> Proposer:
        """A proposer for one generation. Computes nothing yet."""
        if self.drafter is None:
            return HostedProposer(self.grant_tokens)
        return TreeProposer(self, self.drafter, prompt, params, stop)


class HostedProposer:
    """Leaves it to the verifier: grants of ``grant_tokens`` tokens, no drafts."""

    def __init__(self, grant_tokens: int) -> None:
        self._grant_tokens = grant_tokens

    async def propose(self, root: int, limits: Limits) -> Drafted:
        """A grant, or round by round with empty trees where the verifier grants nothing."""
        run = min(self._grant_tokens, limits.grant)
        return Drafted(TokenTree.root_only(root), run=run)

    def on_committed(self, committed: Committed) -> None:
        """Nothing to learn."""

    async def close(self) -> None:
        """Nothing to free."""


class TreeProposer:
    """Drafts with a ``TreeDrafter`` on the compute thread, a whole round in one visit: sessions
    that take turns by round finish sooner, on average, than if they took turns by pass."""

    def __init__(
        self,
        source: DraftSource,
        drafter: Drafter,
        prompt: IntArray,
        params: SamplingParams,
        stop: StopRule,
    ) -> None:
        self._compute = source.compute
        self._policy = source.policy
        self._drafter = TreeDrafter(drafter, source.tally)
        self._prompt = prompt
        self._params = params
        self._stop = stop
        self._was_asked = False
        # Touched by the compute thread while ``propose`` waits for it, by the loop else.
        self._has_started = False
        self._verdicts: list[Committed] = []

    async def propose(self, root: int, limits: Limits) -> Drafted:
        """See ``Proposer.propose``. An empty tree if the drafter has no room for this session."""
        policy = replace(self._policy, budget=min(self._policy.budget, limits.nodes))
        self._was_asked = True
        try:
            tree = await self._compute.run(self._draft, policy)
        except Busy:
            tree = TokenTree.root_only(root)
        return Drafted(tree)

    def on_committed(self, committed: Committed) -> None:
        """See ``Proposer.on_committed``."""
        self._verdicts.append(committed)

    async def close(self) -> None:
        """See ``Proposer.close``."""
        if self._was_asked:  # a round may still be drafting: this waits its turn behind it
            await self._compute.run(self._drafter.close)

    def _draft(self, policy: DraftPolicy) -> TokenTree:
        """On the compute thread."""
        verdicts, self._verdicts = self._verdicts, []
        if not self._has_started:
            self._start([token for verdict in verdicts for token in verdict.tokens])
        else:
            for verdict in verdicts:
                self._learn(verdict)
        return self._drafter.draft(policy)

    def _start(self, already: list[int]) -> None:
        """Open on the prompt and on what was generated while there was no room for a session."""
        self._stop = replace(self._stop, max_tokens=max(1, self._stop.max_tokens - len(already)))
        self._prompt = np.array([*self._prompt, *already], dtype=np.int32)
        self._drafter.start(self._prompt, self._params, self._stop)
        self._has_started = True

    def _learn(self, verdict: Committed) -> None:
        if verdict.was_tree:
            path, bonus = verdict.tokens[:-1], verdict.tokens[-1]
            self._drafter.on_verdict(path, bonus, verdict.verdict.kept)
        else:
            self._drafter.on_append(verdict.tokens)
