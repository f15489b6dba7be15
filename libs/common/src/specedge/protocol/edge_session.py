"""The edge's end of a session: events in, effects out.

Rule 1: every change of an edge session's state happens here and in the modules named by
``edge_books``; ``EDGE_TRANSITIONS`` bounds it.
Rule 2: no clock, no link, no drafter. Time comes in as ``now_s``, work goes out as effects.
Rule 3: a wrong local call raises ``ProtocolViolation`` and changes nothing; the wire never raises.

The edge is the source of truth: the log of committed tokens here is the session, and every failure
elsewhere is healed by saying the round again, with the whole context first if the verifier is cold.
Rounds number from 0; a try is one send of a round. One round, or one grant, is out at a time.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from specedge.errors import ProtocolViolation
from specedge.ids import Round
from specedge.protocol.codec import encode
from specedge.protocol.edge_answers import take_answer
from specedge.protocol.edge_books import EdgeBooks
from specedge.protocol.edge_opening import EdgeOpening
from specedge.protocol.edge_place import request_place, take_open_outcome
from specedge.protocol.edge_sending import say_round, take_draft, take_draft_ahead
from specedge.protocol.edge_states import EDGE_TRANSITIONS, EdgeState, kind_of
from specedge.protocol.effects import (
    Answered,
    CancelAsked,
    CloseAsked,
    Drafted,
    DraftedAhead,
    EdgeEffect,
    EdgeEvent,
    LinkRestored,
    OpenAnswered,
    OpenFailed,
    Started,
    SwitchAsked,
    TimerDue,
)
from specedge.protocol.messages import SessionParams
from specedge.protocol.moments import is_up
from specedge.protocol.opening import Limits, Opened, OpenRequest
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.tree.token_tree import IntArray


class EdgeSession:
    """One session. ``params`` are what the verifier will be told (its ``weights`` may be
    ``refusals.ANY_WEIGHTS``), ``prompt`` (params.prompt,) ids. One owner drives it."""

    def __init__(
        self,
        params: SessionParams,
        prompt: IntArray | Sequence[int],
        config: EdgeSessionConfig | None = None,
        *,
        drafter: str = "",
    ) -> None:
        if len(prompt) != params.prompt:
            raise ValueError("params.prompt must be the prompt's length")
        config = config or EdgeSessionConfig()
        request = OpenRequest(
            model=params.model,
            tokenizer=params.tokenizer,
            context=params.prompt + params.max_tokens,
            drafter=drafter,
        )
        opening = EdgeOpening(encode(request), config)
        self._books = EdgeBooks(params, np.array(prompt, dtype=np.int32), config, opening)

    # ------------------------------------------------------------ what others may read

    @property
    def counters(self) -> Counter[str]:
        """What was ignored, rejected or said again."""
        return self._books.counters

    @property
    def state(self) -> EdgeState:
        """Where the session stands."""
        return self._books.state

    @property
    def committed(self) -> IntArray:
        """Prompt and generated tokens, (base,) int32, the root last; not to be written."""
        return self._books.prompt if self._books.opened is None else self._books.log.view()

    @property
    def base(self) -> int:
        """How many tokens are committed."""
        return len(self.committed)

    @property
    def round(self) -> Round:
        """The current round: the next one to be answered."""
        return self._books.current.number

    @property
    def params(self) -> SessionParams:
        """As the verifier is told them; complete once the session is open."""
        return self._books.params

    @property
    def opened(self) -> Opened | None:
        """The scheduler's answer, once there is one."""
        return self._books.opened

    @property
    def limits(self) -> Limits | None:
        """What this session may ask for, once it is open."""
        return self.opened.limits if self.opened else None

    @property
    def group(self) -> str:
        """The <target> of this session's up subjects, once it is open."""
        return self.opened.group if self.opened else ""

    @property
    def verifier(self) -> str:
        """The verifier that spoke last, or the one that the scheduler named."""
        return self._books.verifier

    @property
    def round_trip_s(self) -> float | None:
        """The usual time from a send to its verdict, to start the next session with."""
        return self._books.timer.round_trip_s

    # ------------------------------------------------------------ events

    def on(self, event: EdgeEvent, now_s: float) -> list[EdgeEffect]:
        """Take one event; perform the effects in order before the next one."""
        books, kind = self._books, kind_of(event)
        allowed = EDGE_TRANSITIONS[books.state].get(kind)
        if allowed is None:
            raise ProtocolViolation(f"{kind.__name__} is out of turn when {books.state}")
        books.out = []
        if books.state is EdgeState.ENDED:
            books.counters["after_end"] += 1
        else:
            _dispatch(books, event, now_s)
        assert books.state in allowed, f"{kind.__name__}: table does not allow {books.state}"
        return books.out


def _dispatch(books: EdgeBooks, event: EdgeEvent, now_s: float) -> None:
    match event:
        case Answered(message):
            take_answer(books, message, now_s)
        case OpenAnswered() | OpenFailed():
            take_open_outcome(books, event, now_s)
        case Drafted():
            take_draft(books, event, now_s)
        case TimerDue():
            _take_timer(books, now_s)
        case Started():
            books.state = EdgeState.OPENING
            request_place(books, now_s)
        case LinkRestored():
            _take_link(books, now_s)
        case DraftedAhead():
            take_draft_ahead(books, event)
        case SwitchAsked() | CancelAsked() | CloseAsked():
            _take_wish(books, event)


def _take_wish(books: EdgeBooks, wish: SwitchAsked | CancelAsked | CloseAsked) -> None:
    match wish:
        case CancelAsked():
            books.end("cancelled")
        case CloseAsked():
            books.end("closed")
        case SwitchAsked():
            if books.state is EdgeState.HOSTED:
                books.ask_draft()


def _take_timer(books: EdgeBooks, now_s: float) -> None:
    at_s, books.timer_at_s = books.timer_at_s, None
    if at_s is None:
        return
    if not is_up(at_s, now_s):
        books.set_timer(at_s)  # early: the driver's timer may be spent, so ask for it again
    elif books.state is EdgeState.OPENING:
        request_place(books, now_s)
    elif is_up(books.give_up_at_s, now_s):
        books.give_up()
    else:
        if not books.is_backing_off:
            books.counters["resends"] += 1
            books.timer.double()
            books.is_in_line = False  # nothing is heard any more
        say_round(books, now_s, is_repeat=True)


def _take_link(books: EdgeBooks, now_s: float) -> None:
    """The link is back: what is out may be lost."""
    if books.state is EdgeState.OPENING and not books.opening.is_out:
        request_place(books, now_s)
    elif books.is_running:
        books.timer.reset()
        say_round(books, now_s, is_repeat=True)
