"""What a draft must promise to be sent ahead follows what waiting brings, and what it costs."""

from dataclasses import replace

import pytest

from specedge.drafting.ahead_worth import ENOUGH, LEAST, AheadWorth
from specedge.drafting.controller import RoundOutcome

# 33 ms of a step of its own, 12 ms of the way and drafting; two tokens and a half a round.
WAITED = RoundOutcome(
    expected=1.3,
    num_tried=5,
    num_accepted=2,
    draft_ms=7.0,
    round_trip_ms=38.0,
    step_ms=33.0,
    step_rows=6,
)
BEGUN = replace(WAITED, expected=0.9, num_accepted=1, round_trip_ms=None, gap_ms=34.0)


def after(*rounds: RoundOutcome, times: int = 40, had_head_start: bool = True) -> float:
    worth = AheadWorth()
    for _ in range(times):
        for one in rounds:
            worth.note(one, had_head_start=had_head_start)
    return worth.least


def test_until_enough_is_known_it_is_the_least() -> None:
    assert AheadWorth().least == LEAST
    assert after(WAITED, times=int(ENOUGH) - 1) == LEAST
    assert after(WAITED, times=int(ENOUGH)) > LEAST


def test_it_is_the_usual_promise_less_what_waiting_costs_in_tokens() -> None:
    price_ms = (45.0 + 33.0) / 3
    assert after(WAITED) == pytest.approx(1.3 - 12.0 / price_ms)


def test_the_longer_the_way_the_less_is_asked() -> None:
    near, far, overseas = (
        after(replace(WAITED, round_trip_ms=33.0 + ms), BEGUN) for ms in (5.0, 19.0, 120.0)
    )
    assert near > far > overseas == LEAST


def test_a_drafter_that_promises_little_is_asked_for_little() -> None:
    assert after(replace(WAITED, expected=0.4, num_accepted=0)) == LEAST


def test_a_verifier_that_is_shared_costs_a_round_its_rows_only() -> None:
    """So that a token is cheaper, and the same wait worth more of them."""
    assert after(replace(WAITED, step_rows=60)) < after(WAITED)


def test_waiting_in_a_queue_is_not_what_a_draft_sent_ahead_saves() -> None:
    queued = replace(WAITED, round_trip_ms=138.0, queue_ms=100.0)
    price_ms = (145.0 + 33.0) / 3
    assert after(queued) == pytest.approx(1.3 - 12.0 / price_ms)


def test_drafts_without_a_head_start_say_nothing_of_what_waiting_brings() -> None:
    """They are of another kind of round: one whose verdict nobody expected."""
    assert after(WAITED, had_head_start=False) == LEAST


def test_rounds_begun_ahead_count_for_the_price_alone() -> None:
    price_ms = (45.0 + 33.0 + 34.0 + 33.0) / 5
    assert after(WAITED, BEGUN) == pytest.approx(1.3 - 12.0 / price_ms, abs=0.02)


def test_a_round_whose_times_are_unknown_is_left_out() -> None:
    assert after(WAITED, replace(WAITED, expected=9.0, round_trip_ms=None)) == after(WAITED)
