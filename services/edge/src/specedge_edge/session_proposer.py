"""The drafts of one generation: its drafter on the compute thread, the controller, the pacing, and
what is sent ahead of the verdict. On the loop; while a draft is out the thread drafts on, whenever
nobody asks it for anything."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.errors import Busy
from specedge.params import DraftPolicy
from specedge.protocol.effects import Committed, Drafted, DraftedAhead
from specedge.protocol.opening import Limits
from specedge.service.compute import IdleWork
from specedge.tree.ahead import AheadPolicy
from specedge.tree.token_tree import IntArray, TokenTree
from specedge_edge.context_reading import READING_GRANT_TOKENS, ContextReading
from specedge_edge.pacing import RoundPacing
from specedge_edge.proposer import OnAhead, ProposerFigures
from specedge_edge.round_control import RoundControl
from specedge_edge.sending_ahead import DraftingOn, Offer, OfferTerms
from specedge_edge.session_drafter import DraftedRound, SessionDrafter

if TYPE_CHECKING:  # it makes these
    from specedge_edge.drafting import DraftSource

MS_PER_S: Final = 1e3
NO_LIMITS: Final = Limits(nodes=0, append=0, context=0, grant=0)


class SessionProposer:
    """Round by round a tree or a grant, as ``control`` decides; a grant too where the drafter has
    no room, fails, rests or has much to read, and an empty tree where the verifier grants nothing.

    A whole round is drafted in one visit of the compute thread: sessions that take turns by round
    finish sooner, on average, than if they took turns by pass.
    """

    def __init__(
        self,
        source: "DraftSource",
        control: RoundControl,
        session: SessionDrafter,
        prompt: IntArray,
        on_ahead: OnAhead | None = None,
    ) -> None:
        self._source = source
        self._control = control
        self._session = session  # the compute thread's
        self._committed: list[int] = prompt.tolist()
        self._prompt_len = len(prompt)
        self._reading = ContextReading(source.compute, session)
        self._read_patience_s: float | None = None  # while it reads: for this round
        self._num_told = 0  # of the committed ones, as far as the drafter did not fail since
        self._news: list[Committed] = []  # that the drafter does not know yet
        self._trips = source.trips.session()
        self._pacing = RoundPacing(source.pass_time) if source.is_paced else None
        self._decision = Decision(policy=None)
        self._grant = Drafted(TokenTree.root_only(self._committed[-1]))
        self._drafting: asyncio.Future[DraftedRound | None] | None = None
        self._was_asked = False
        self._out: TokenTree | None = None  # the tree that is out; None: a grant is
        self._ahead: IdleWork | None = None
        self._on_ahead = on_ahead if source.is_sent_ahead else None
        self._limits = NO_LIMITS
        self._terms = OfferTerms(source.patience)
        self._records: tuple[PassRecord, ...] | None = None  # not yet told to ``control``
        self._is_following = False  # what is out was sent ahead of the last verdict
        self._had_head_start = False  # of what is out
        self._has_prompt_behind = False
        self._begun_s = self._sent_s = 0.0
        self._hosted_s: float | None = None  # when the last verdict of this grant came

    @property
    def figures(self) -> ProposerFigures:
        """See ``Proposer.figures``."""
        return ProposerFigures(self._session.counts, self._session.saved_s * MS_PER_S)

    def begin(self, root: int, limits: Limits) -> None:
        """See ``Proposer.begin``."""
        source = self._source
        self._limits, self._is_following = limits, False
        self._begun_s = source.clock.now_s()
        self._decision = self._control.decide(limits.nodes, limits.grant)
        if self._pacing is not None:
            self._decision = self._pacing.paced(self._decision, self._begun_s)
        run = min(self._decision.run or source.grant_tokens, limits.grant)
        self._grant = Drafted(TokenTree.root_only(root), run=run)
        self._drafting = self._read_patience_s = None
        if self._decision.is_hosted or not source.standing.may_draft(self._begun_s):
            return
        try:
            self._start()
        except Busy:
            source.standing.on_refusal()

    def _start(self) -> None:
        """A draft, or what comes before it: much to read. Raises Busy."""
        reading, num_new = self._reading, len(self._committed) - self._num_told
        if not reading.is_under_way and not reading.is_worth_while(num_new):
            self._start_draft()
            return
        if not reading.is_under_way:
            reading.start(tuple(self._committed), tuple(self._news))
            self._note_told()
        # Before the first token the verifier has the prompt to read, too.
        is_first = len(self._committed) == self._prompt_len
        self._read_patience_s = self._source.read_patience_s if is_first else 0.0
        run = min(self._grant.run, READING_GRANT_TOKENS)
        self._grant = replace(self._grant, run=run)

    def _start_draft(self) -> None:
        self._drafting = self._source.compute.start(
            self._session.draft, self._committed, tuple(self._news), self._decision
        )
        self._note_told()

    def _note_told(self) -> None:
        """All that is committed is on its way to the drafter."""
        self._was_asked = True
        self._num_told = len(self._committed)
        self._news.clear()

    async def drafted(self) -> Drafted:
        """See ``Proposer.drafted``."""
        drafted = await self._outcome()
        self._out, self._hosted_s = None, None
        if drafted is None:
            return self._grant
        self._source.standing.on_success()
        self._records = drafted.records
        self._out, self._had_head_start = drafted.tree, drafted.levels_there > 0
        self._terms.note_draft(drafted.tree)
        return Drafted(drafted.tree)

    def on_sent(self) -> None:
        """See ``Proposer.on_sent``."""
        self._sent_s = self._source.clock.now_s()
        self._draft_on(self._trips.due_s(self._sent_s))
        # Not before: nobody is to wait for it.
        if self._records is not None:
            self._control.observe_passes(self._records)
            self._records = None

    def on_committed(self, committed: Committed) -> None:
        """See ``Proposer.on_committed``."""
        self._stop_ahead()
        self._committed += committed.tokens
        self._note_news(committed)
        if self._pacing is not None:
            out = self._out if committed.was_tree else None
            self._pacing.observe(committed, self._source.clock.now_s(), out)
        gap_s = self._observe_time(committed)
        if committed.was_tree and self._out is not None:
            self._observe_verdict(self._judge(committed, self._out, gap_s))
        elif not committed.was_tree:
            self._control.observe_hosted(self._judge_hosted(committed))
        if committed.next_tree is not None:
            self._follow(committed.next_tree)

    def _note_news(self, committed: Committed) -> None:
        """What the drafter has to be told before it drafts again. Nobody drafts while tokens are
        hosted, however many they are: of those all that counts is which."""
        last = self._news[-1] if self._news else None
        if last is None or last.was_tree or committed.was_tree:
            self._news.append(committed)
        else:
            self._news[-1] = replace(committed, tokens=last.tokens + committed.tokens)

    async def close(self) -> None:
        """See ``Proposer.close``."""
        self._stop_ahead()
        self._reading.stop()
        if self._drafting is not None:
            self._drafting.add_done_callback(_forget)
            self._drafting.cancel()
        if self._was_asked:  # a round may still be drafting: this waits its turn behind it
            self._was_asked = False
            # Whoever is cancelled meanwhile, even twice, the drafter's slot comes back.
            await asyncio.shield(self._source.compute.start_farewell(self._session.close))

    def _observe_verdict(self, outcome: RoundOutcome) -> None:
        self._control.observe_verdict(outcome)
        if self._has_prompt_behind:
            self._source.patience.note(outcome, had_head_start=self._had_head_start)
        self._has_prompt_behind = True

    async def _outcome(self) -> DraftedRound | None:
        """The round, or None: the reason, if it is one that matters to others, is noted."""
        standing, patience_s = self._source.standing, self._read_patience_s
        try:
            if patience_s is not None and await self._reading.is_over(patience_s):
                self._start_draft()
            return None if self._drafting is None else await self._drafting
        except Busy:
            standing.on_refusal()
        except Exception as error:  # noqa: BLE001, RUF100 - a drafter must not end a stream
            standing.on_failure(error, self._source.clock.now_s())
        self._num_told = 0  # it begins anew, unless it had no room for the tree alone
        return None

    def _follow(self, tree: TokenTree) -> None:
        """The next round is out, with ``tree``: draft on beyond it."""
        self._begun_s = self._sent_s = self._source.clock.now_s()
        self._out, self._is_following = tree, True
        try:
            self._source.compute.start(self._session.follow, tuple(self._news), tree)
        except Busy:
            self._source.standing.on_refusal()
            return
        self._note_told()
        self._draft_on(self._trips.due_after_s(self._sent_s))

    def _draft_on(self, due_s: float | None) -> None:
        """Beyond what is out, until its verdict is due."""
        policy = self._decision.policy
        if self._out is None or policy is None or not self._source.is_proactive:
            return
        offer = self._offer(policy, due_s)
        # What the next round drafts after its verdict anyway need not be there before, unless it is
        # to do without that.
        levels = policy.depth - (0 if offer is not None else (policy.passes or 1) - 1)
        ahead = AheadPolicy(levels=max(1, levels), beams=policy.beams, branch=policy.branch)
        drafting_on = DraftingOn(self._session, ahead, due_s, offer)
        self._ahead = self._source.compute.start_idle(drafting_on.step)

    def _offer(self, policy: DraftPolicy, due_s: float | None) -> Offer | None:
        on_ahead, limits = self._on_ahead, self._limits
        if on_ahead is None or limits.ahead == 0:
            return None
        loop, base = asyncio.get_running_loop(), len(self._committed)
        nodes = min(policy.budget, limits.nodes)

        def send(tree: TokenTree) -> None:
            loop.call_soon_threadsafe(on_ahead, DraftedAhead(tree, nodes, base))

        terms = self._terms.of(policy, self._decision.rule, limits.ahead)
        return Offer(terms, self._trips.leave_by_s(due_s), send)

    def _observe_time(self, committed: Committed) -> float | None:
        """Learn how long the round took. If its draft had been sent ahead: since the verdict before
        it; else None."""
        trip_s = committed.round_trip_s
        if trip_s is not None:
            self._trips.observe(trip_s, committed.verdict.timing.cloud_ms / MS_PER_S)
            return None
        if not (self._is_following and committed.was_tree):
            return None
        gap_s = self._source.clock.now_s() - self._sent_s
        self._trips.observe_gap(gap_s)
        return gap_s

    def _stop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def _judge(self, committed: Committed, tree: TokenTree, gap_s: float | None) -> RoundOutcome:
        verdict, trip_s = committed.verdict, committed.round_trip_s
        return RoundOutcome(
            expected=float(tree.value[1 : verdict.kept + 1].sum()),
            num_tried=verdict.kept,
            num_accepted=len(committed.tokens) - 1,
            draft_ms=(self._sent_s - self._begun_s) * MS_PER_S,
            round_trip_ms=None if trip_s is None else trip_s * MS_PER_S,
            queue_ms=verdict.timing.held + verdict.timing.queue,
            step_ms=verdict.timing.step,
            step_rows=verdict.timing.rows,
            gap_ms=None if gap_s is None else gap_s * MS_PER_S,
        )

    def _judge_hosted(self, committed: Committed) -> HostedOutcome:
        now_s, before_s = self._source.clock.now_s(), self._hosted_s
        self._hosted_s = now_s
        timing = committed.verdict.timing
        return HostedOutcome(
            num_tokens=len(committed.tokens),
            num_tried=committed.verdict.own,
            elapsed_ms=None if before_s is None else (now_s - before_s) * MS_PER_S,
            queue_ms=timing.held + timing.queue,
            step_ms=timing.step,
            step_rows=timing.rows,
        )


def _forget(drafting: "asyncio.Future[DraftedRound | None]") -> None:
    """Of a round that nobody waits for any more: that it failed is nothing to report."""
    if not drafting.cancelled():
        drafting.exception()
