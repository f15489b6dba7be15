"""What the scheduler knows of one session's coming, and of one verifier's running step."""

import pytest

from specedge.protocol.reports import StepReport
from specedge_scheduler.pipeline import PendingDraft, Pipeline, SentBatch
from specedge_scheduler.rhythm import Rhythm
from tests.unit.scheduler_facts import draft, key, stat

BUDGET_S = 10.0


def round_at(number: int, base: int, arrived_s: float = 0.0) -> PendingDraft:
    """Three nodes in a line, so at most four tokens."""
    said = draft(number).model_copy(update={"base": base})
    return PendingDraft(said, arrived_s, arrived_s + BUDGET_S)


@pytest.mark.parametrize("gained", [1, 3, 4])
def test_what_a_session_gains_by_a_round_is_told_by_where_the_next_one_starts(gained: int) -> None:
    rhythm = Rhythm()
    for number in range(40):
        assert rhythm.note_draft(round_at(number, 100 + gained * number))

    assert rhythm.tokens == pytest.approx(gained, abs=0.01)
    assert rhythm.context == 100 + gained * 39


def test_how_long_an_edge_takes_is_counted_from_the_end_of_its_step() -> None:
    rhythm = Rhythm()
    for number in range(40):
        now_s = 10.0 * number
        rhythm.note_draft(round_at(number, 5, arrived_s=now_s))
        rhythm.note_released(now_s + 9.97)

    assert rhythm.turnaround_s == pytest.approx(0.03)
    assert not rhythm.is_late(399.97 + 0.03)
    assert rhythm.is_late(399.97 + 0.04)


def test_a_running_step_is_expected_to_last_for_the_prefill_that_is_in_it_too() -> None:
    pipeline = Pipeline()
    for seq in range(64):
        prefill = 256 * (seq % 2)
        ms = 20.0 + 0.25 * prefill
        step = StepReport(seq=seq, rows=4 + prefill, prefill=prefill, context=9, sessions=1, ms=ms)
        pipeline.note_stat(stat(seq, steps=(step,)), True, 0.0)
    pipeline.note_sent(1, SentBatch(((key(), round_at(0, 5)),), 1.0, 4), 1.0)

    last = StepReport(seq=64, rows=4, prefill=0, context=9, sessions=1, ms=20.0)
    pipeline.note_stat(stat(65, steps=(last,), batches=(1,), last=1, running=4 + 256), True, 2.0)

    assert pipeline.ends_s == pytest.approx(2.0 + 0.084, rel=0.01)


def test_a_heartbeat_that_crossed_a_batch_does_not_put_off_when_its_step_ends() -> None:
    pipeline = Pipeline()
    pipeline.note_sent(1, SentBatch(((key(), round_at(0, 5)),), 1.0, 4), 1.0)
    before_s = pipeline.ends_s

    pipeline.note_stat(stat(1), True, 1.5)

    assert pipeline.ends_s == before_s
