"""What passing time does to a verifier session: signs of life to its edge, and rounds whose time is
over.

Functions over ``VerifierBooks``, for ``verifier_session``.
"""

from specedge.protocol.messages import Progress
from specedge.protocol.moments import is_up
from specedge.protocol.verifier_books import VerifierBooks
from specedge.protocol.verifier_effects import Reply
from specedge.protocol.work_checks import EXPIRED


def take_timer(books: VerifierBooks, now_s: float) -> None:
    """The timer rang: say that there is progress, or give up a round that is too late."""
    if not books.timer.rings(now_s):
        return
    if books.timer.is_progress_due(now_s):
        _report_progress(books, now_s)
    elif is_up(_expires_at_s(books), now_s):
        books.drop_job(EXPIRED)


def _expires_at_s(books: VerifierBooks) -> float | None:
    """When the job must be given up; None if there is none, or its step is under way."""
    return None if books.job is None or books.is_stepping else books.job.deadline_s


def _report_progress(books: VerifierBooks, now_s: float) -> None:
    """A sign of life to the edge, whose own timer starts again: so do the deadlines."""
    books.timer.restart()
    books.intake.is_news = False
    for late in (books.next_work, books.waiting, books.job):
        if late is not None and late.deadline_s is not None:
            late.deadline_s = max(late.deadline_s, now_s + late.budget_s)
    round_, try_ = _name_of_progress(books)
    figures = (books.rows, len(books.committed))
    if (assembly := books.intake.assembly) is not None:
        figures = (assembly.num_received, assembly.header.total)
    answer = Progress(round=round_, try_=try_, at=books.verifier, progress=figures)
    books.out.append(Reply(answer))


def _name_of_progress(books: VerifierBooks) -> tuple[int, int]:
    if books.next_work is not None:
        return books.next_work.name
    if books.job is not None:
        return books.job.round, books.job.try_
    if books.waiting is not None:
        return books.waiting.name
    if books.intake.assembly is not None:
        return books.intake.assembly.header.round, 0
    return books.context_round, 0


def arm_timer(books: VerifierBooks, now_s: float) -> None:
    """Set the timer as what is at hand now needs it."""
    is_at_work = books.job is not None or books.next_work is not None or books.is_prefilling
    is_at_work = is_at_work or (books.intake.is_open and books.intake.is_news)
    timer = books.timer
    books.tell_timer(timer.arm(now_s, _expires_at_s(books)) if is_at_work else timer.stop())
