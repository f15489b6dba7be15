"""A controller in charge of a session's rounds: what it is told, and when."""

import pytest

from specedge.drafting.growth_rule import PassRecord
from specedge.drafting.rounds import Decision, HostedOutcome, RoundOutcome
from specedge.params import SamplingParams
from specedge.service.compute import ComputeThread
from specedge.tree.calibration import Tally
from specedge.tree.path import find_path
from specedge_edge.proactive import PassTime
from specedge_edge.session_drafter import SessionDrafter, Workshop
from specedge_edge.session_proposer import SessionProposer
from tests.unit.drafting_session import LIMITS, PASS_S, POLICY, PROMPT, STOP, Session, emulated


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
