"""What the cloud's answers mean to an edge session: verdicts, progress, rejections, coldness.

Functions over ``EdgeBooks``, for ``edge_session``. Nothing from the wire raises: what is old,
doubled or about another prefix is counted.
"""

from specedge.errors import RetryableError
from specedge.protocol.edge_books import EdgeBooks
from specedge.protocol.edge_sending import say_round, send_context
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import Committed
from specedge.protocol.messages import Cold, DownMessage, Progress, Rejected, Verdict
from specedge.protocol.opening import RETRYABLE_REASONS, Reason
from specedge.protocol.refusals import error_of
from specedge.tree.token_tree import TokenTree


def take_answer(books: EdgeBooks, message: DownMessage, now_s: float) -> None:
    """A message of the session's own subject."""
    if books.opened is None:
        books.counters["before_open"] += 1
        return
    match message:
        case Verdict():
            _take_verdict(books, message, now_s)
        case Rejected():
            _take_rejected(books, message, now_s)
        case Progress():
            _take_progress(books, message, now_s)
        case Cold():
            if _is_current(books, message):
                _resync(books, now_s)
            else:
                books.counters["stale_cold"] += 1


def _is_current(books: EdgeBooks, message: Cold | Rejected) -> bool:
    """Whether it answers exactly what is out now. Later rounds of a grant were never sent: they are
    their own first try."""
    named = (message.round, message.try_)
    return books.is_running and named == (books.current.number, max(books.current.try_, 0))


def _take_verdict(books: EdgeBooks, verdict: Verdict, now_s: float) -> None:
    if verdict.round != books.current.number:
        _take_other_round(books, verdict, now_s)
        return
    tokens = (*verdict.path, verdict.bonus)
    if not _is_consistent(books, verdict, tokens):
        _take_mismatch(books, verdict, now_s)
        return
    if (fault := _find_fault(books, verdict, tokens)) is not None:
        books.counters["faulty_verdict"] += 1
        books.end("error", RetryableError(f"a verifier at fault: {fault}"))
        return
    was_tree = books.state is EdgeState.AWAITING and books.current.has_tried(verdict)
    sent_s = books.current.sent_s.get(verdict.try_)
    if sent_s is not None and books.current.is_timed:
        books.timer.observe(now_s - sent_s)
    was_sent = was_tree and not (books.current.is_ahead and verdict.try_ == 0)
    round_trip_s = now_s - sent_s if was_sent and sent_s is not None else None
    next_tree = books.current.next_tree(verdict)
    books.log.extend(tokens)
    books.verifier = verdict.at or books.verifier
    books.out.append(Committed(tokens, was_tree, verdict, round_trip_s, next_tree))
    if verdict.final is not None:
        books.end(verdict.final)
    elif next_tree is not None:
        _follow(books, next_tree, now_s)
    else:
        _begin_round(books, now_s)


def _is_consistent(books: EdgeBooks, verdict: Verdict, tokens: tuple[int, ...]) -> bool:
    """Whether the verdict continues our own prefix."""
    is_next = verdict.base == len(books.log) + len(tokens)
    return is_next and verdict.hash == books.log.hash_after(tokens)


def _find_fault(books: EdgeBooks, verdict: Verdict, tokens: tuple[int, ...]) -> str | None:
    """What no verifier may say, or None. It means our own prefix, and a round is answered the same
    whenever it is said again: neither the context nor another try would mend it."""
    assert books.opened is not None
    vocab_size, params = books.opened.identity.vocab_size, books.params
    if (largest := max(tokens)) >= vocab_size:
        return f"it chose {largest}, outside the vocabulary of {vocab_size}"
    if verdict.base > params.prompt + params.max_tokens:
        return f"it chose more than the {params.max_tokens} tokens asked for"
    if verdict.lp is None:
        return None if params.logprobs < 0 else "it told no log-probabilities"
    if len(verdict.lp) != len(tokens):
        return f"it told log-probabilities of {len(verdict.lp)} tokens, and chose {len(tokens)}"
    if any(token >= vocab_size for told in verdict.lp for token, _ in told.top):
        return f"it told log-probabilities of tokens outside the vocabulary of {vocab_size}"
    return None


def _follow(books: EdgeBooks, tree: TokenTree, now_s: float) -> None:
    """The verifier tries the next round already: it is out, though it was never sent."""
    books.counters["followed"] += 1
    books.current.follow(tree, now_s)
    books.note_advance(now_s)
    books.wait(now_s)


def _begin_round(books: EdgeBooks, now_s: float) -> None:
    books.current.advance()
    books.note_advance(now_s)
    left = books.current.grant_end - len(books.log)
    if books.state is EdgeState.HOSTED and left > 0:
        books.wait(now_s)
        if 2 * left <= books.current.run:
            books.ask_draft()
        return
    books.state = EdgeState.DRAFTING
    books.set_timer(None)
    books.ask_draft()


def _take_other_round(books: EdgeBooks, verdict: Verdict, now_s: float) -> None:
    """Older: a duplicate. Newer: while a grant runs, the one between was lost; asked for once,
    since those behind it are on their way too."""
    if verdict.round < books.current.number:
        books.counters["stale_verdict"] += 1
    elif books.state is EdgeState.HOSTED and not books.current.has_asked_for_gap:
        books.counters["gaps"] += 1
        books.current.has_asked_for_gap = True
        say_round(books, now_s, is_repeat=True)
    else:
        books.counters["newer_verdict"] += 1


def _take_mismatch(books: EdgeBooks, verdict: Verdict, now_s: float) -> None:
    """The verifier holds another prefix. Only an answer to what is out now is worth a resync:
    others are left over from a verifier that the session has left."""
    books.counters["mismatched_verdict"] += 1
    if books.is_running and verdict.try_ == max(books.current.try_, 0):
        _resync(books, now_s)


def _resync(books: EdgeBooks, now_s: float) -> None:
    books.counters["resyncs"] += 1
    send_context(books)
    say_round(books, now_s, is_repeat=True)


def _take_progress(books: EdgeBooks, progress: Progress, now_s: float) -> None:
    if not books.is_running or progress.round != books.current.number:
        books.counters["stale_progress"] += 1
        return
    books.verifier = progress.at or books.verifier
    books.no_verifier_since_s = None
    books.current.is_timed = False
    books.is_in_line = progress.progress == books.progress
    if not books.is_in_line:
        books.progress = progress.progress
        books.advanced_s = now_s
    books.wait(now_s)


def _take_rejected(books: EdgeBooks, rejected: Rejected, now_s: float) -> None:
    if rejected.round != books.current.number:
        books.counters["stale_rejected"] += 1
    elif rejected.rejected not in RETRYABLE_REASONS:
        books.end("error", error_of(rejected, books.params.tokenizer))
    elif not _is_current(books, rejected):
        books.counters["stale_rejected"] += 1
    elif rejected.rejected is Reason.EXPIRED:
        books.counters["expired"] += 1
        books.timer.double()
        say_round(books, now_s, is_repeat=True)
    else:
        _back_off(books, rejected, now_s)


def _back_off(books: EdgeBooks, rejected: Rejected, now_s: float) -> None:
    books.counters[f"rejected_{rejected.rejected}"] += 1
    retry_ms = rejected.retry_ms
    pause_s = books.config.retry_s if retry_ms is None else retry_ms / 1e3
    if rejected.rejected is Reason.NO_VERIFIER:
        if books.no_verifier_since_s is None:
            books.no_verifier_since_s = now_s
        if now_s + pause_s > books.no_verifier_since_s + books.config.no_verifier_s:
            books.end("error", error_of(rejected, books.params.tokenizer))
            return
    else:
        books.no_verifier_since_s = None
        books.is_in_line = True
    books.is_backing_off = True
    books.set_timer(min(now_s + pause_s, books.give_up_at_s))
