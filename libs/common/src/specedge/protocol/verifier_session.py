"""The verifier's end of a session: events in, effects out.

Rule 1: every change of a verifier session's state happens here and in the modules named by
``verifier_books``; ``VERIFIER_TRANSITIONS`` bounds it.
Rule 2: no clock, no link, no engine. Time comes in as ``now_s``, work goes out as effects.
Rule 3: a wrong local call raises ``ProtocolViolation`` and changes nothing; the wire never raises.

A verifier is a cache: whatever is lost here, the edge brings again.
"""

from collections import Counter

from specedge.errors import ProtocolViolation
from specedge.ids import SessionKey
from specedge.protocol.context_intake import ContextIntake
from specedge.protocol.effects import TimerDue
from specedge.protocol.messages import SessionParams
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.verifier_books import Lease, VerifierBooks
from specedge.protocol.verifier_context import take_context
from specedge.protocol.verifier_effects import (
    AheadArrived,
    ContextArrived,
    EndingArrived,
    Gone,
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepBegun,
    StepFailed,
    Stepped,
    VerifierEffect,
    VerifierEvent,
    WorkArrived,
)
from specedge.protocol.verifier_job import VerifierSessionConfig
from specedge.protocol.verifier_states import VERIFIER_TRANSITIONS, VerifierState
from specedge.protocol.verifier_steps import ask_for_next, begin_step, end_step, note_slot, want
from specedge.protocol.verifier_time import arm_timer, take_timer
from specedge.protocol.verifier_work import take_ahead, take_work
from specedge.tree.token_tree import IntArray

_OVER = (VerifierState.ENDING, VerifierState.GONE)


class VerifierSession:
    """One session at one verifier. ``verifier`` is its id, said in every answer. One owner drives
    it; ``committed`` and ``params`` are for the engine's choosing, between events."""

    def __init__(
        self,
        key: SessionKey,
        limits: Limits,
        identity: Identity,
        verifier: str,
        config: VerifierSessionConfig | None = None,
    ) -> None:
        self.key = key
        self._books = VerifierBooks(limits, identity, verifier, config or VerifierSessionConfig())

    # ------------------------------------------------------------ what others may read

    @property
    def counters(self) -> Counter[str]:
        """What was ignored, rejected or answered again."""
        return self._books.counters

    @property
    def state(self) -> VerifierState:
        """Where the session stands."""
        return self._books.state

    @property
    def committed(self) -> IntArray:
        """Prompt and generated tokens, (base,) int32, read-only; empty if there is no context."""
        return self._books.committed

    @property
    def params(self) -> SessionParams | None:
        """As the context said them."""
        return None if self._books.log is None else self._books.log.params

    @property
    def rows(self) -> int:
        """How many KV rows are valid."""
        return self._books.rows

    @property
    def has_slot(self) -> bool:
        """Whether a slot is leased."""
        return self._books.lease is Lease.HELD

    @property
    def is_hosted(self) -> bool:
        """Whether a grant runs."""
        return self._books.job is not None and self._books.job.is_hosted

    @property
    def grant_left(self) -> int:
        """Tokens that the grant's present round may commit; 0: no grant runs."""
        return self._books.grant_left

    @property
    def expects_more(self) -> bool:
        """Whether the round at hand may be followed by another at once: something was drafted
        beyond it, and sent ahead."""
        return self._books.job is not None and self._books.job.ahead is not None

    @property
    def rows_ahead(self) -> int:
        """Rows of the round at hand if its draft was sent ahead; 0: it was not, or none is."""
        return self._books.rows_ahead

    @property
    def last_round(self) -> int:
        """The last answered round; -1: none."""
        return self._books.answered.last_round

    # ------------------------------------------------------------ events

    def on(self, event: VerifierEvent, now_s: float) -> list[VerifierEffect]:
        """Take one event; perform the effects in order before the next one."""
        books = self._books
        allowed = VERIFIER_TRANSITIONS[books.state].get(type(event))
        if allowed is None or not _is_in_turn(books, event):
            raise ProtocolViolation(f"{type(event).__name__} is out of turn when {books.state}")
        books.out = []
        if books.state in _OVER:
            _finish_ending(books, event)
        elif isinstance(event, EndingArrived):
            _begin_ending(books)
        else:
            _dispatch(books, event, now_s)
            ask_for_next(books, now_s)
            books.state = _find_state(books)
            arm_timer(books, now_s)
        assert books.state in allowed, f"{type(event).__name__}: not allowed to {books.state}"
        return books.out


def _is_in_turn(books: VerifierBooks, event: VerifierEvent) -> bool:
    """Whether a local answer was asked for, and fits what was asked."""
    match event:
        case SlotGiven() | SlotDenied():
            return books.lease is Lease.ASKED
        case SlotTaken():
            return books.lease is Lease.HELD
        case StepBegun(num_chain):
            return books.step is not None and books.step.can_begin(num_chain)
        case Stepped():
            step = books.step
            return step is not None and step.is_answered_by(event.choice, event.tree)
        case StepFailed():
            return books.step is not None
    return True


def _dispatch(books: VerifierBooks, event: VerifierEvent, now_s: float) -> None:
    match event:
        case ContextArrived():
            take_context(books, event)
        case WorkArrived():
            take_work(books, event, now_s)
        case AheadArrived(ahead):
            take_ahead(books, ahead)
        case SlotGiven() | SlotDenied() | SlotTaken():
            note_slot(books, event)
        case StepBegun(num_chain):
            begin_step(books, num_chain)
        case Stepped() | StepFailed():
            end_step(books, event, now_s)
        case TimerDue():
            take_timer(books, now_s)


def _find_state(books: VerifierBooks) -> VerifierState:
    if books.step is not None:
        is_round = books.step.job is not None
        return VerifierState.RUNNING if is_round else VerifierState.FILLING
    if books.job is not None or books.intake.is_open or books.is_prefilling:
        return VerifierState.FILLING
    if books.lease is Lease.ASKED:
        return VerifierState.FILLING  # nobody needs it any more, but the answer is owed
    return VerifierState.ABSENT if books.log is None else VerifierState.READY


# ---------------------------------------------------------------- the end


def _begin_ending(books: VerifierBooks) -> None:
    books.job = books.next_work = books.waiting = None
    books.intake = ContextIntake()
    books.is_prefilling = False
    books.tell_timer(books.timer.stop())
    if books.step is not None and not books.is_stepping:
        want(books, None)
    if books.is_stepping or books.lease is Lease.ASKED:
        books.state = VerifierState.ENDING
    else:
        _leave(books)


def _finish_ending(books: VerifierBooks, event: VerifierEvent) -> None:
    """Over: nothing from the wire counts; the driver's last answer frees the slot."""
    match event:
        case SlotGiven():
            books.lease = Lease.HELD
            _leave(books)
        case SlotDenied():
            books.lease = Lease.NONE
            _leave(books)
        case Stepped() | StepFailed():
            books.step = None
            _leave(books)
        case _:
            books.counters["after_end"] += 1


def _leave(books: VerifierBooks) -> None:
    if books.lease is Lease.HELD:
        books.drop_slot()
    books.lease = Lease.NONE
    books.state = VerifierState.GONE
    books.out.append(Gone())
