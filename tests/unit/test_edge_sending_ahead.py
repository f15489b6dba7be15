"""What a session sends before the verdict, and when: terms, the last passes before, patience."""

import math

import numpy as np
import pytest

from specedge.drafting.growth_rule import GrowthRule
from specedge.drafting.patience import Patience
from specedge.params import DraftPolicy
from specedge.service.compute import ComputeThread
from specedge.tree.ahead import AheadPolicy, OfferPolicy
from specedge.tree.path import find_path
from specedge.tree.token_tree import TokenTree
from specedge_edge.sending_ahead import DraftingOn, Offer, OfferTerms
from tests.unit.drafting_session import PASS_S, POLICY, Session


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
