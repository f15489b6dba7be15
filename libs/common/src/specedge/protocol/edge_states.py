"""The edge's states of a session and what each event may lead to: the diagram's source.

An event that a state does not list is a wrong local call: ``ProtocolViolation``. What the wire can
bring is listed everywhere, since nobody controls when it comes.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from specedge.protocol.effects import (
    Answered,
    CancelAsked,
    CloseAsked,
    Drafted,
    DraftedAhead,
    EdgeEvent,
    LinkRestored,
    OpenAnswered,
    OpenFailed,
    Started,
    SwitchAsked,
    TimerDue,
)
from specedge.protocol.messages import Cold, Progress, Rejected, Verdict
from specedge.protocol.opening import Opened, Refused


class EdgeState(StrEnum):
    """Where a session stands, as its edge sees it."""

    NEW = "new"  # nothing was said yet
    OPENING = "opening"  # a place was asked for
    DRAFTING = "drafting"  # the verifier has nothing to do: a draft or a grant is awaited
    AWAITING = "awaiting"  # a draft is out
    HOSTED = "hosted"  # a grant is out
    ENDED = "ended"

    __hash__ = str.__hash__  # an Enum's own is not in C, and every event looks its state up


S = EdgeState


def _to(*states: EdgeState) -> frozenset[EdgeState]:
    return frozenset(states)


# Events that change nothing where they stand here: answers that come late or for another state,
# and wishes that are already met or come too late. They are counted.
_LATE_OPEN: Final = (Opened, Refused, OpenFailed)
_LATE_ANSWER: Final = (Verdict, Progress, Cold, Rejected)
_WISHES: Final = (SwitchAsked, DraftedAhead)

EDGE_TRANSITIONS: Final[Mapping[EdgeState, Mapping[type, frozenset[EdgeState]]]] = {
    S.NEW: {
        **dict.fromkeys((*_LATE_OPEN, *_LATE_ANSWER, LinkRestored, *_WISHES), _to(S.NEW)),
        Started: _to(S.OPENING),
        TimerDue: _to(S.NEW),
        CancelAsked: _to(S.ENDED),
        CloseAsked: _to(S.ENDED),
    },
    S.OPENING: {
        **dict.fromkeys((*_LATE_ANSWER, LinkRestored, *_WISHES), _to(S.OPENING)),
        Opened: _to(S.DRAFTING, S.ENDED),
        Refused: _to(S.OPENING, S.ENDED),
        OpenFailed: _to(S.OPENING, S.ENDED),
        TimerDue: _to(S.OPENING),
        CancelAsked: _to(S.ENDED),
        CloseAsked: _to(S.ENDED),
    },
    S.DRAFTING: {
        **dict.fromkeys((*_LATE_OPEN, Progress, Cold, LinkRestored, *_WISHES), _to(S.DRAFTING)),
        Drafted: _to(S.AWAITING, S.HOSTED),
        Verdict: _to(S.DRAFTING, S.ENDED),
        Rejected: _to(S.DRAFTING, S.ENDED),
        TimerDue: _to(S.DRAFTING),
        CancelAsked: _to(S.ENDED),
        CloseAsked: _to(S.ENDED),
    },
    S.AWAITING: {
        **dict.fromkeys((*_LATE_OPEN, *_WISHES), _to(S.AWAITING)),
        Verdict: _to(S.AWAITING, S.DRAFTING, S.ENDED),
        Rejected: _to(S.AWAITING, S.ENDED),
        Progress: _to(S.AWAITING),
        Cold: _to(S.AWAITING),
        TimerDue: _to(S.AWAITING, S.ENDED),
        LinkRestored: _to(S.AWAITING),
        CancelAsked: _to(S.ENDED),
        CloseAsked: _to(S.ENDED),
    },
    S.HOSTED: {
        **dict.fromkeys(_LATE_OPEN, _to(S.HOSTED)),
        Verdict: _to(S.HOSTED, S.DRAFTING, S.ENDED),
        Drafted: _to(S.HOSTED, S.AWAITING),
        Rejected: _to(S.HOSTED, S.ENDED),
        Progress: _to(S.HOSTED),
        Cold: _to(S.HOSTED),
        TimerDue: _to(S.HOSTED, S.ENDED),
        LinkRestored: _to(S.HOSTED),
        **dict.fromkeys(_WISHES, _to(S.HOSTED)),
        CancelAsked: _to(S.ENDED),
        CloseAsked: _to(S.ENDED),
    },
    S.ENDED: {
        **dict.fromkeys((*_LATE_OPEN, *_LATE_ANSWER, LinkRestored, *_WISHES), _to(S.ENDED)),
        Drafted: _to(S.ENDED),
        TimerDue: _to(S.ENDED),
        CancelAsked: _to(S.ENDED),
        CloseAsked: _to(S.ENDED),
    },
}


def kind_of(event: EdgeEvent) -> type:
    """What an event counts as in the table: a message from the wire by its own kind."""
    match event:
        case Answered(message):
            return type(message)
        case OpenAnswered(reply):
            return type(reply)
    return type(event)
