"""A simulated edge has one device, however many sessions: as a real one has one thread."""

import pytest

from specedge_scheduler.sim.edge_device import SimDevice
from specedge_scheduler.sim.measures import Figures
from specedge_scheduler.sim.scenario import read_scenario
from specedge_scheduler.sim.world import simulate

ENOUGH_S = 100.0
AT_ONCE = 0.0  # a pass
PASS_MS = 20.0


def test_drafts_are_made_one_after_the_other_in_the_order_of_asking() -> None:
    device = SimDevice(AT_ONCE)

    assert device.work(0.5, 1.0) == 1.5
    assert device.work(0.25, 1.1) == 1.75
    assert device.work(0.0, 1.2) == 1.75, "what is there already waits its turn, too"
    assert device.work(0.5, 3.0) == 3.5


def test_ahead_is_drafted_in_idle_time_alone() -> None:
    device = SimDevice(AT_ONCE)

    device.begin_idle("a", ENOUGH_S, 1.0)
    device.work(2.0, 1.5)

    assert device.end_idle("a", 3.0) == 0.5
    assert device.end_idle("a", 9.0) == 0.0


def test_idle_time_is_shared_by_those_who_have_a_use_for_it() -> None:
    device = SimDevice(AT_ONCE)

    device.begin_idle("alone first", ENOUGH_S, 0.0)
    device.begin_idle("wants little", 0.5, 1.0)
    device.begin_idle("wants much", ENOUGH_S, 1.0)

    # From 1.0 on each has a third, until one has its half a second at 2.5; then each has a half.
    assert device.end_idle("alone first", 4.5) == pytest.approx(1.0 + 0.5 + 1.0)
    assert device.end_idle("wants little", 4.5) == 0.5
    assert device.end_idle("wants much", 4.5) == pytest.approx(0.5 + 1.0)


def test_who_asks_waits_for_the_pass_ahead_that_runs_and_for_no_other() -> None:
    device = SimDevice(0.25)

    device.begin_idle("another", ENOUGH_S, 1.0)

    assert device.work(0.5, 1.125) == 1.25 + 0.5
    assert device.work(0.5, 1.5) == 2.25, "nobody drafts ahead while there is something to do"
    assert device.work(0.5, 2.625) == 2.75 + 0.5
    assert device.end_idle("another", 4.0) == pytest.approx(0.25 + 0.5 + 0.75)


def test_who_was_the_only_one_to_draft_ahead_does_not_wait() -> None:
    device = SimDevice(0.25)
    device.begin_idle("asker", ENOUGH_S, 1.0)
    device.begin_idle("has all it wants", 0.0, 1.0)

    device.end_idle("asker", 1.125)

    assert device.work(0.5, 1.125) == 1.625


def test_one_alone_has_exactly_the_time_that_passed() -> None:
    device = SimDevice(AT_ONCE)
    sent_s = device.work(0.1, 0.7)

    device.begin_idle("a", ENOUGH_S, sent_s)

    assert device.end_idle("a", 1.3) == 1.3 - sent_s


def figures(sessions: int, **fields: object) -> Figures:
    """On a verifier that takes no time, so that drafting alone bounds what an edge yields."""
    home = {
        "sessions": sessions,
        "draft_pass_ms": PASS_MS,
        "draft_ms": 0.0,
        "depth": 3,
        "acceptance": [0.0],
        "session": {"prompt_tokens": 8, "output_tokens": 5000},
    }
    free = {"device": "instant", "overhead_ms": 0.0, "answer_ms": 0.0}
    asked = {"duration_s": 8.0, "warmup_s": 2.0, "verifiers": [free], "edges": [home | fields]}
    return simulate(read_scenario(asked))


def test_many_sessions_of_an_edge_draft_no_faster_than_its_device() -> None:
    """A token a round, three passes a round: as many tokens a second as the device has rounds."""
    most = 1000.0 / (3 * PASS_MS)

    assert figures(16).tokens_per_s == pytest.approx(most, rel=0.03)
    assert 0.85 * most < figures(1).tokens_per_s <= 1.01 * most


def test_sessions_that_keep_the_device_busy_leave_no_time_to_draft_ahead() -> None:
    link = {"round_trip_ms": 100.0}
    ahead = {"proactive": {"hit": 1.0}, "link": link}

    assert figures(1, **ahead).tokens_per_s > 1.3 * figures(1, link=link).tokens_per_s
    busy = figures(16, **ahead).tokens_per_s
    assert busy == pytest.approx(figures(16, link=link).tokens_per_s, rel=0.1)
