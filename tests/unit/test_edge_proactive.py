"""Drafting on while a draft is out: what a hit spares, when it stops, and what a failure does."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest
from structlog.testing import capture_logs

from specedge.clock import ManualClock
from specedge.drafting.growth_rule import GrowthRule, PassRecord
from specedge.drafting.patience import Patience
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.engine.emulated import EmulatedDrafter, EmulatedText, emulated_continuation
from specedge.engine.failing_drafter import NAN, FailingDrafter
from specedge.engine.ports import Drafter
from specedge.params import DraftPolicy, SamplingParams, StopRule
from specedge.profiles import DeviceProfile
from specedge.protocol.effects import Committed, Drafted
from specedge.protocol.messages import Timing, Verdict
from specedge.protocol.opening import Limits
from specedge.service.compute import ComputeThread
from specedge.tree.ahead import AheadPolicy, OfferPolicy
from specedge.tree.calibration import Tally
from specedge.tree.path import find_path
from specedge.tree.token_tree import IntArray, TokenTree
from specedge_edge.drafting import DraftSource
from specedge_edge.proactive import PassTime
from specedge_edge.proposer import Proposer
from specedge_edge.sending_ahead import DraftingOn, Offer, OfferTerms
from specedge_edge.session_drafter import SessionDrafter, Workshop
from specedge_edge.session_proposer import SessionProposer
from specedge_edge.standing import REST_S, DrafterStanding

PROMPT: IntArray = np.array([5, 6, 7], dtype=np.int32)
STOP = StopRule(max_tokens=1000)
LIMITS = Limits(nodes=16, append=64, context=4096, grant=8)
POLICY = DraftPolicy(depth=3, budget=16, beams=4, branch=4)
PASS_S = 0.010


@pytest.fixture
async def compute() -> AsyncIterator[ComputeThread]:
    thread = ComputeThread("test")
    yield thread
    await thread.close()


class Session:
    """A proposer whose verdicts are the target's own; a pass takes ``PASS_S`` by its clock."""

    def __init__(
        self,
        compute: ComputeThread,
        drafter: Drafter | None = None,
        *,
        clock: ManualClock | None = None,
        is_proactive: bool = True,
    ) -> None:
        self.compute = compute
        self.clock = clock or ManualClock()
        self.source = DraftSource(
            drafter or emulated(self.clock), compute, POLICY, 64, self.clock, is_proactive
        )
        self.proposer: Proposer = self.source.open(PROMPT, SamplingParams(), STOP)
        self.tokens: list[int] = []

    @property
    def truth(self) -> list[int]:
        """The target's next tokens."""
        stop = StopRule(max_tokens=len(self.tokens) + 8)
        return emulated_continuation(PROMPT, stop)[len(self.tokens) :]

    async def draft(self) -> Drafted:
        self.proposer.begin([*PROMPT.tolist(), *self.tokens][-1], LIMITS)
        drafted = await self.proposer.drafted()
        self.proposer.on_sent()
        return drafted

    async def idle(self) -> None:
        """Until the thread has drafted ahead all that it wants to: idle works take turns, so one
        that sees no pass between two of its own turns is alone."""
        alone = asyncio.Event()
        loop, seen = asyncio.get_running_loop(), [-1]

        def watch() -> bool:
            now = self.proposer.figures.counts.passes_ahead
            if now == seen[0]:
                loop.call_soon_threadsafe(alone.set)
                return False
            seen[0] = now
            return True

        self.compute.start_idle(watch)
        await alone.wait()

    def answer(self, tree: TokenTree, *, bonus: int | None = None, after_s: float = 0.1) -> None:
        """The target's verdict on ``tree``; with another ``bonus`` than its own to make a miss."""
        path = find_path(tree, self.truth)
        tokens = [*tree.token[path].tolist(), self.truth[len(path)] if bonus is None else bonus]
        self.tokens += tokens
        self.proposer.on_committed(
            Committed(tuple(tokens), True, verdict(tokens, tree.num_drafted), after_s)
        )

    def grant(self, count: int) -> None:
        """So many tokens of a hosted run."""
        for token in self.truth[:count]:
            self.tokens.append(token)
            self.proposer.on_committed(Committed((token,), False, verdict([token], 0), None))


def verdict(tokens: list[int], kept: int) -> Verdict:
    timing = Timing(held=1.0, queue=2.0, step=20.0)
    return Verdict(round=0, bonus=tokens[-1], kept=kept, base=99, hash="0" * 16, timing=timing)


def emulated(clock: ManualClock) -> EmulatedDrafter:
    profile = DeviceProfile("test", "made up", draft_pass_ms=PASS_S * 1e3)
    return EmulatedDrafter(agreement=(1.0,), profile=profile, sleep=clock.advance)


async def test_after_a_hit_with_a_full_head_start_the_draft_is_ready(
    compute: ComputeThread,
) -> None:
    session = Session(compute)
    first = await session.draft()
    await session.idle()
    before = session.proposer.figures.counts.passes
    session.answer(first.tree)

    second = await session.draft()

    figures = session.proposer.figures
    assert len(find_path(second.tree, session.truth)) == POLICY.depth
    assert (figures.counts.hits, figures.counts.passes) == (1, before)
    assert figures.saved_ms == pytest.approx(POLICY.depth * PASS_S * 1e3)
    await session.proposer.close()


async def test_a_miss_costs_what_it_costs_without(compute: ComputeThread) -> None:
    session = Session(compute)
    first = await session.draft()
    await session.idle()
    session.answer(first.tree, bonus=499)

    second = await session.draft()

    figures = session.proposer.figures
    assert second.tree.token[0] == 499
    assert (figures.counts.hits, figures.counts.passes, figures.saved_ms) == (0, 6, 0.0)
    await session.proposer.close()


async def test_it_can_be_switched_off(compute: ComputeThread) -> None:
    session = Session(compute, is_proactive=False)
    await session.draft()
    await session.idle()

    assert session.proposer.figures.counts.passes_ahead == 0
    await session.proposer.close()


async def test_no_pass_is_begun_that_would_end_after_the_expected_verdict(
    compute: ComputeThread,
) -> None:
    session = Session(compute)
    for after_s in (5.0, 2.5 * PASS_S):  # the first holds the prompt's prefill: it does not count
        first = await session.draft()
        await session.idle()
        session.answer(first.tree, bonus=499, after_s=after_s)
    before = session.proposer.figures.counts.passes_ahead

    await session.draft()
    await session.idle()

    assert session.proposer.figures.counts.passes_ahead - before == 2
    await session.proposer.close()


async def test_a_verdict_ends_it_at_the_next_pass(compute: ComputeThread) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def hold_first_ahead(number: int) -> None:
        if number == POLICY.depth:
            has_begun.set()
            may_end.wait(10)

    drafter = EmulatedDrafter(agreement=(1.0,))
    session = Session(compute, FailingDrafter(drafter, hold_first_ahead))
    first = await session.draft()
    await asyncio.to_thread(has_begun.wait, 10)

    session.answer(first.tree)
    may_end.set()
    await session.idle()

    assert session.proposer.figures.counts.passes_ahead == 1
    await session.proposer.close()


async def test_closing_ends_it_and_frees_the_drafter(compute: ComputeThread) -> None:
    drafter = FailingDrafter(EmulatedDrafter(EmulatedText()), lambda _: None)
    session = Session(compute, drafter)
    await session.draft()

    await session.proposer.close()
    passes = drafter.num_passes
    await compute.run(int)

    assert (drafter.num_open, drafter.num_passes) == (0, passes)


# ---------------------------------------------------------------- failures


def broken_from(number: int, clock: ManualClock, *, kind: Exception | str) -> FailingDrafter:
    """Fails in that pass and all after it until the drafter has rested once."""

    def fault(n: int) -> Exception | str | None:
        return kind if n >= number and clock.now_s() < REST_S else None

    return FailingDrafter(EmulatedDrafter(agreement=(1.0,)), fault)


@pytest.mark.parametrize("kind", [RuntimeError("out of memory"), NAN], ids=["error", "nan"])
@pytest.mark.parametrize("number", [0, 1, 3, 5], ids=["first", "inside", "ahead", "later-ahead"])
async def test_a_drafter_that_failed_rests_and_is_then_asked_again(
    compute: ComputeThread, number: int, kind: Exception | str
) -> None:
    clock = ManualClock()
    drafter = broken_from(number, clock, kind=kind)
    session = Session(compute, drafter, clock=clock)
    standing = session.source.standing
    with capture_logs() as logs:
        granted = await session.draft()
        if granted.run == 0:
            await session.idle()
            session.answer(granted.tree)
            granted = await session.draft()
        session.grant(4)
        resting = await session.draft()
        problem = standing.problem
        session.grant(2)
        clock.advance(REST_S)
        drafted = await session.draft()

    assert (granted.run, granted.tree.num_drafted) == (LIMITS.grant, 0)
    assert (resting.run, standing.num_failures) == (LIMITS.grant, 1)
    assert problem is not None and standing.problem is None
    assert len(find_path(drafted.tree, session.truth)) == POLICY.depth
    assert [entry["event"] for entry in logs] == ["drafting_failed", "drafting_resumed"]
    await session.proposer.close()
    assert drafter.num_open == 0


def test_a_drafter_that_fails_again_and_again_rests_longer_each_time() -> None:
    standing, now_s, rests = DrafterStanding(), 0.0, []
    for _ in range(9):
        standing.on_failure(ValueError("again"), now_s)
        before_s = now_s
        while not standing.may_draft(now_s):
            now_s += 1.0
        rests.append(now_s - before_s)

    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]


# ---------------------------------------------------------------- a controller in charge


class Alternating:
    """``RoundControl`` that drafts and leaves it to the verifier by turns, and notes what it
    hears."""

    def __init__(self) -> None:
        self.heard: list[RoundOutcome | HostedOutcome] = []
        self.num_records = 0
        self._is_drafting = False

    def decide(self, max_nodes: int, max_grant: int) -> Decision:
        self._is_drafting = not self._is_drafting
        return Decision(POLICY) if self._is_drafting else Decision(None, run=3)

    def observe_passes(self, passes: tuple[PassRecord, ...]) -> None:
        self.num_records += len(passes)

    def observe_verdict(self, outcome: RoundOutcome) -> None:
        self.heard.append(outcome)

    def observe_hosted(self, outcome: HostedOutcome) -> None:
        self.heard.append(outcome)


def controlled(session: Session, control: Alternating) -> SessionProposer:
    shop = Workshop(emulated(session.clock), Tally(), PassTime(), session.clock.now_s)
    worker = SessionDrafter(shop, SamplingParams(), STOP, len(PROMPT))
    return SessionProposer(session.source, control, worker, PROMPT)


async def test_what_passes_teach_is_learned_once_their_draft_has_left(
    compute: ComputeThread,
) -> None:
    session, control = Session(compute), Alternating()
    proposer = controlled(session, control)

    proposer.begin(int(PROMPT[-1]), LIMITS)
    await proposer.drafted()
    assert control.num_records == 0

    proposer.on_sent()
    assert control.num_records == POLICY.depth
    await proposer.close()


async def test_a_session_may_change_between_drafted_and_hosted_at_every_round(
    compute: ComputeThread,
) -> None:
    session, control = Session(compute), Alternating()
    session.proposer = controlled(session, control)

    for _ in range(3):
        drafted = await session.draft()
        assert len(find_path(drafted.tree, session.truth)) == POLICY.depth
        await session.idle()
        session.answer(drafted.tree)
        granted = await session.draft()
        assert (granted.run, granted.tree.num_drafted) == (3, 0)
        session.clock.advance(0.02)
        session.grant(3)

    outcome = next(heard for heard in control.heard if isinstance(heard, RoundOutcome))
    elapsed = [heard.elapsed_ms for heard in control.heard if isinstance(heard, HostedOutcome)]
    assert outcome.num_accepted == POLICY.depth
    assert (outcome.round_trip_ms, outcome.queue_ms, outcome.step_ms) == (100.0, 3.0, 20.0)
    assert outcome.draft_ms == pytest.approx(POLICY.depth * PASS_S * 1e3)
    assert elapsed == [None, 0.0, 0.0] * 3  # each grant's first has none before it
    assert control.num_records > 3 * POLICY.depth
    await session.proposer.close()


# ---------------------------------------------------------------- sending it ahead


async def test_rounds_teach_what_a_draft_sent_ahead_may_lack_but_a_session_s_first_one(
    compute: ComputeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(compute)
    taught: list[bool] = []
    monkeypatch.setattr(
        session.source.patience,
        "note",
        lambda _, *, had_head_start: taught.append(had_head_start),
    )

    for bonus in (None, 499, None):
        drafted = await session.draft()
        await session.idle()
        session.answer(drafted.tree, bonus=bonus)

    assert taught == [True, False]
    await session.proposer.close()


def test_what_is_offered_is_worth_its_rows_and_as_deep_as_drafts_are_that_are_waited_for() -> None:
    terms, policy = OfferTerms(Patience()), DraftPolicy(depth=5, budget=9)
    rule = GrowthRule(
        rate=0.02,
        trust=0.5,
        pass_ms=5.0,
        row_ms=0.0,
        verify_ms=50.0 + 5.0 * np.arange(4.0),
        children=np.zeros((1, 1, 1)),
    )
    assert terms.of(policy, rule, 64).levels == 5, "nothing was drafted yet"

    for _ in range(3):
        terms.note_draft(TokenTree.from_parents([1, 2, 3], [-1, 0, 1]))

    of_rule, of_all = terms.of(policy, rule, 64), terms.of(policy, None, 64)
    assert (of_rule.levels, of_all.levels) == (2, 5)
    assert of_rule.price is not None and of_all.price is None
    assert of_rule.price.tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6]), "half is believed"


async def test_a_pass_ahead_is_no_wider_than_there_is_time_for(
    compute: ComputeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(compute, is_proactive=False)
    await session.draft()
    worker, due_s = session.proposer._session, session.clock.now_s() + 1.0
    widths: list[int] = []
    monkeypatch.setattr(
        worker._shop.pass_time, "add", lambda _seconds, num_rows: widths.append(num_rows)
    )

    for widest in (2.9, 1.0, 0.5, math.inf):
        monkeypatch.setattr(worker._shop.pass_time, "rows_within", lambda _, w=widest: w)
        worker.step_ahead(AheadPolicy(beams=4, floor=0.0), due_s)

    assert widths == [2, 1, 4]
    await session.proposer.close()


async def test_it_is_offered_once_before_the_pass_that_would_make_it_late(
    compute: ComputeThread,
) -> None:
    session = Session(compute, is_proactive=False)
    await session.draft()
    sent: list[tuple[float, TokenTree]] = []
    offer = Offer(
        OfferPolicy(worth=0.1),
        session.clock.now_s() + 3.5 * PASS_S,
        lambda tree: sent.append((session.clock.now_s(), tree)),
    )
    began_s = session.clock.now_s()
    drafting_on = DraftingOn(
        session.proposer._session, AheadPolicy(), began_s + 6.5 * PASS_S, offer
    )

    num_passes = 0
    while drafting_on.step():
        num_passes += 1

    ((sent_s, tree),) = sent
    assert num_passes == 6
    assert sent_s == pytest.approx(began_s + 3 * PASS_S)
    assert len(find_path(tree, session.truth)) > POLICY.depth
    await session.proposer.close()
