"""The verifier's end of a session: answers of its driver that nobody asked for."""

import numpy as np
import pytest

from specedge.errors import ProtocolViolation
from specedge.protocol.messages import Verdict
from specedge.protocol.verifier_effects import (
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepBegun,
    StepFailed,
    Stepped,
    VerifierEvent,
)
from specedge.protocol.verifier_states import VerifierState
from tests.unit.verifier_bench import Bench, reply_in


@pytest.mark.parametrize(
    "event",
    [SlotGiven(), SlotDenied(1), SlotTaken(), StepBegun(1), Stepped(None), StepFailed("no")],
)
def test_an_answer_that_nobody_asked_for_raises_and_changes_nothing(event: VerifierEvent) -> None:
    bench = Bench()

    with pytest.raises(ProtocolViolation):
        bench.on(event)

    assert bench.session.state is VerifierState.ABSENT


def test_an_answer_that_does_not_fit_what_was_asked_raises_and_changes_nothing() -> None:
    bench = Bench()
    bench.ready()
    bench.on(bench.work(token=(7,), parent=(-1,), append=(1,)))
    for wrong in (StepBegun(1), StepBegun(3), Stepped(None), SlotTaken()):
        with pytest.raises(ProtocolViolation):
            bench.on(wrong)
    bench.on(StepBegun(2))
    for wrong in (StepBegun(2), Stepped(None), Stepped(np.zeros(1, dtype=np.int32))):
        with pytest.raises(ProtocolViolation):
            bench.on(wrong)

    assert reply_in(bench.on(Stepped(np.asarray([7, 8], dtype=np.int32))), Verdict)
