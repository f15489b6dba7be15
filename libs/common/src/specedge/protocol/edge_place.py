"""An edge session's place: asked for, given or refused.

Functions over ``EdgeBooks``, for ``edge_session``.
"""

from specedge.errors import SpecEdgeError
from specedge.protocol.edge_books import EdgeBooks
from specedge.protocol.edge_sending import send_context
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import OpenAnswered, OpenFailed
from specedge.protocol.opening import Opened, Refused
from specedge.protocol.refusals import error_of, mismatch_of
from specedge.protocol.token_log import TokenLog


def request_place(books: EdgeBooks, now_s: float) -> None:
    """Ask for one, now."""
    books.set_timer(None)
    books.out.append(books.opening.ask(now_s))


def take_open_outcome(books: EdgeBooks, event: OpenAnswered | OpenFailed, now_s: float) -> None:
    """What became of the request: a place, another request later, or the end."""
    if books.state is not EdgeState.OPENING or not books.opening.is_out:
        books.counters["stale_open"] += 1
        return
    books.opening.is_out = False
    match event:
        case OpenFailed(error):
            _retry_open(books, error, now_s)
        case OpenAnswered(Refused() as refused):
            _retry_open(books, error_of(refused, books.params.tokenizer), now_s)
        case OpenAnswered(Opened() as opened):
            _take_place(books, opened, now_s)


def _retry_open(books: EdgeBooks, error: SpecEdgeError, now_s: float) -> None:
    if (at_s := books.opening.retry_at_s(error, now_s)) is None:
        books.end("error", error)
    else:
        books.set_timer(at_s)


def _take_place(books: EdgeBooks, opened: Opened, now_s: float) -> None:
    if (error := mismatch_of(opened, books.params)) is not None:
        books.end("error", error)
        return
    identity = opened.identity
    told = {"model": identity.model, "weights": identity.weights}
    books.params = books.params.model_copy(update=told)
    books.log = TokenLog(books.params, books.prompt)
    books.opened, books.verifier = opened, opened.at
    books.advanced_s = now_s
    books.state = EdgeState.DRAFTING
    books.set_timer(None)
    send_context(books)
    books.ask_draft()
