"""The verifier's states of a session and what each event may lead to: the diagram's source.

An event that a state does not list is a wrong local call: ``ProtocolViolation``. What the wire can
bring, and timers, are listed everywhere. Within a listed state a local answer must have been asked
for: that is the session's own check.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from specedge.protocol.effects import TimerDue
from specedge.protocol.verifier_effects import (
    AheadArrived,
    ContextArrived,
    EndingArrived,
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepBegun,
    StepFailed,
    Stepped,
    WorkArrived,
)


class VerifierState(StrEnum):
    """Where a session stands, as its verifier sees it."""

    ABSENT = "absent"  # nothing is known: work is answered cold
    FILLING = "filling"  # context is coming, or waits for a slot, or its KV rows are computed
    READY = "ready"  # the context is here and nothing is to be done
    RUNNING = "running"  # a round waits for its step, or is in one
    ENDING = "ending"  # over, but the driver still owes an answer about its slot
    GONE = "gone"

    __hash__ = str.__hash__  # an Enum's own is not in C, and every event looks its state up


S = VerifierState


def _to(*states: VerifierState) -> frozenset[VerifierState]:
    return frozenset(states)


_FROM_ELSEWHERE: Final = (ContextArrived, WorkArrived, AheadArrived, TimerDue, EndingArrived)

VERIFIER_TRANSITIONS: Final[Mapping[VerifierState, Mapping[type, frozenset[VerifierState]]]] = {
    S.ABSENT: {
        AheadArrived: _to(S.ABSENT),
        ContextArrived: _to(S.ABSENT, S.FILLING),
        WorkArrived: _to(S.ABSENT),
        TimerDue: _to(S.ABSENT),
        EndingArrived: _to(S.GONE),
    },
    S.FILLING: {
        AheadArrived: _to(S.FILLING),
        ContextArrived: _to(S.FILLING, S.READY, S.RUNNING, S.ABSENT),
        WorkArrived: _to(S.FILLING, S.READY, S.RUNNING, S.ABSENT),
        SlotGiven: _to(S.FILLING, S.READY, S.RUNNING),
        SlotDenied: _to(S.READY, S.FILLING),
        StepBegun: _to(S.FILLING),
        Stepped: _to(S.FILLING, S.READY, S.RUNNING),
        StepFailed: _to(S.READY, S.FILLING, S.RUNNING),
        TimerDue: _to(S.FILLING, S.READY),
        EndingArrived: _to(S.GONE, S.ENDING),
    },
    S.READY: {
        AheadArrived: _to(S.READY),
        ContextArrived: _to(S.READY, S.FILLING),
        WorkArrived: _to(S.READY, S.FILLING, S.RUNNING),
        SlotTaken: _to(S.READY),
        TimerDue: _to(S.READY),
        EndingArrived: _to(S.GONE),
    },
    S.RUNNING: {
        AheadArrived: _to(S.RUNNING),
        ContextArrived: _to(S.RUNNING, S.FILLING, S.READY),
        WorkArrived: _to(S.RUNNING, S.FILLING, S.READY),
        StepBegun: _to(S.RUNNING),
        Stepped: _to(S.READY, S.RUNNING, S.FILLING),
        StepFailed: _to(S.READY, S.RUNNING, S.FILLING),
        TimerDue: _to(S.RUNNING, S.READY, S.FILLING),
        EndingArrived: _to(S.GONE, S.ENDING),
    },
    S.ENDING: {
        **dict.fromkeys(_FROM_ELSEWHERE, _to(S.ENDING)),
        SlotGiven: _to(S.GONE),
        SlotDenied: _to(S.GONE),
        Stepped: _to(S.GONE),
        StepFailed: _to(S.GONE),
    },
    S.GONE: dict.fromkeys(_FROM_ELSEWHERE, _to(S.GONE)),
}
