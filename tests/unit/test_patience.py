"""What a draft sent ahead may lack follows from what waiting costs, at the price of a token."""

import math
from dataclasses import replace

import pytest

from specedge.drafting.patience import ENOUGH, Patience
from specedge.drafting.rounds import RoundOutcome

# 33 ms of a step of its own, 12 ms of the way and drafting; three tokens.
WAITED = RoundOutcome(
    expected=1.3,
    num_tried=5,
    num_accepted=2,
    draft_ms=7.0,
    round_trip_ms=38.0,
    step_ms=33.0,
    step_rows=6,
)
BEGUN = replace(WAITED, num_accepted=1, round_trip_ms=None, gap_ms=34.0)


def after(*rounds: RoundOutcome, times: int = 40, had_head_start: bool = True) -> float:
    patience = Patience()
    for _ in range(times):
        for one in rounds:
            patience.note(one, had_head_start=had_head_start)
    return patience.tokens


def test_as_long_as_little_is_known_a_draft_may_lack_anything() -> None:
    assert Patience().tokens == math.inf
    assert after(WAITED, times=int(ENOUGH) - 1) == math.inf
    assert after(WAITED, times=int(ENOUGH)) < math.inf


def test_it_is_what_waiting_costs_at_the_price_of_a_token() -> None:
    price_ms = (45.0 + 33.0) / 3
    assert after(WAITED) == pytest.approx(12.0 / price_ms)


def test_the_longer_the_way_the_more_may_lack() -> None:
    near, far, overseas = (
        after(replace(WAITED, round_trip_ms=33.0 + ms), BEGUN) for ms in (5.0, 19.0, 120.0)
    )
    assert near < far < overseas


def test_a_verifier_that_is_shared_costs_a_round_its_rows_only() -> None:
    """So that a token is cheaper, and the same wait worth more of them."""
    assert after(replace(WAITED, step_rows=60)) > after(WAITED)


def test_waiting_in_a_queue_is_not_what_a_draft_sent_ahead_saves() -> None:
    queued = replace(WAITED, round_trip_ms=138.0, queue_ms=100.0)
    price_ms = (145.0 + 33.0) / 3
    assert after(queued) == pytest.approx(12.0 / price_ms)


def test_drafts_without_a_head_start_say_nothing_of_what_waiting_costs() -> None:
    """They are of another kind of round: one whose verdict nobody expected."""
    assert after(WAITED, had_head_start=False) == math.inf


def test_rounds_begun_ahead_count_for_the_price_alone() -> None:
    price_ms = (45.0 + 33.0 + 34.0 + 33.0) / 5
    assert after(WAITED, BEGUN) == pytest.approx(12.0 / price_ms, rel=0.02)


def test_a_round_whose_times_are_unknown_is_left_out() -> None:
    assert after(WAITED, replace(WAITED, num_accepted=5, round_trip_ms=None)) == after(WAITED)
