"""What an edge session sends of a round: its draft, the context, and what was drafted ahead.

Functions over ``EdgeBooks``, for ``edge_session`` and its other parts.
"""

from specedge.errors import ProtocolViolation
from specedge.protocol.codec import encode
from specedge.protocol.context import context_chunks
from specedge.protocol.edge_books import EdgeBooks
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import Drafted, DraftedAhead, SendUp
from specedge.protocol.subjects import Up
from specedge.tree.path import reroot
from specedge.tree.token_tree import TokenTree


def take_draft(books: EdgeBooks, event: Drafted, now_s: float) -> None:
    """The driver's answer to ``AskDraft``: send it as the current round. Raises ProtocolViolation
    if nobody asked, or for what this session may not send."""
    if books.ask_base is None or books.opened is None:
        raise ProtocolViolation("a draft that nobody asked for")
    limits = books.opened.limits
    if event.run < 0 or (event.run > 0 and limits.grant == 0):
        raise ProtocolViolation("a grant where hosted sessions are not offered")
    base = books.ask_base if event.base is None else event.base
    books.current.tree = None if event.run else _carry_over(books, event.tree, base)
    books.current.run = min(event.run, limits.grant)
    books.current.is_timed = books.state is not EdgeState.HOSTED  # else it extends what runs
    books.ask_base = None
    books.state = EdgeState.HOSTED if event.run else EdgeState.AWAITING
    say_round(books, now_s)


def take_draft_ahead(books: EdgeBooks, event: DraftedAhead) -> None:
    """Pass on what would be of use to whoever runs the round that is out."""
    is_out = books.state is EdgeState.AWAITING and event.base == len(books.log)
    if not is_out or books.current.sent_ahead is not None:
        books.counters["stale_ahead"] += 1
        return
    assert books.opened is not None
    if (most := books.opened.limits.ahead) > 0:
        ahead = books.current.say_ahead(books.log, event.tree, event.nodes, most)
        books.out.append(SendUp(Up.AHEAD, encode(ahead)))


def _carry_over(books: EdgeBooks, tree: TokenTree, base: int) -> TokenTree:
    """The part of a tree drafted at ``base`` that still stands on today's root."""
    if not 1 <= base <= len(books.log) or tree.token[0] != books.log.view(base - 1)[0]:
        raise ProtocolViolation("a draft on a root that this session never had")
    since = books.log.view(base).tolist()
    return reroot(tree, since)[1] if since else tree


def say_round(books: EdgeBooks, now_s: float, *, is_repeat: bool = False) -> None:
    """Send the round, or the grant from where we stand now, as a new try."""
    assert books.opened is not None
    if not books.current.sent_s:
        books.advanced_s = now_s
    max_nodes, wait_s = books.opened.limits.nodes, books.timer.wait_s
    draft = books.current.say(books.log, books.verifier, max_nodes, wait_s, now_s, is_repeat)
    books.out.append(SendUp(Up.DRAFT, encode(draft)))
    books.wait(now_s)


def send_context(books: EdgeBooks) -> None:
    """All of it, in chunks."""
    for chunk in context_chunks(books.log, books.params, books.current.number):
        books.out.append(SendUp(Up.CONTEXT, chunk))
