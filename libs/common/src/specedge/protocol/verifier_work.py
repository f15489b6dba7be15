"""A verifier session's work: drafts, grants and what is sent ahead, admitted or refused.

Functions over ``VerifierBooks``, for ``verifier_session`` and its other parts. What is admitted
becomes the job at hand; while a step is under way it waits for the step's end.
"""

import numpy as np

from specedge.protocol.messages import Ahead, BatchItem, Cold
from specedge.protocol.token_log import num_common
from specedge.protocol.verifier_books import VerifierBooks
from specedge.protocol.verifier_effects import Reply, WorkArrived
from specedge.protocol.verifier_job import Arrival, Job
from specedge.protocol.work_checks import (
    EXPIRED,
    find_place_fault,
    find_work_fault,
    is_sound_ahead,
)


def take_work(books: VerifierBooks, event: WorkArrived, now_s: float) -> None:
    """A draft or a grant came: admit it, answer it again, keep it for the step's end, or refuse."""
    item = event.item
    fault = find_work_fault(item, books.limits, books.identity.vocab_size)
    if fault is not None:
        books.reject(item.round, item.try_, fault)
        return
    arrival = Arrival(item, event.deadline_s, max(event.deadline_s - now_s, 0.0))
    is_newer = books.asked is None or arrival.name > books.asked
    if is_newer:
        books.asked = arrival.name
        if item.run == 0:
            _end_grant(books)
    if again := books.answered.again(item):
        books.out += [Reply(verdict) for verdict in again]
        books.counters["answered_again"] += 1
    elif not is_newer:
        books.counters["stale_work"] += 1
    elif _is_outrun(books, item):
        books.counters["outrun_draft"] += 1
    elif books.is_stepping:
        books.next_work = None if _refresh(books, arrival) else arrival  # the older one is outdated
    else:
        admit_or_refuse(books, arrival, now_s)


def take_ahead(books: VerifierBooks, ahead: Ahead) -> None:
    """Keep it for the end of the round that it was drafted beyond. A hint: what is wrong, late
    or too much is dropped, and nothing is said."""
    job = books.job
    if not is_sound_ahead(ahead, books.limits, books.identity.vocab_size):
        books.counters["ahead_refused"] += 1
    elif job is None or job.ahead is not None or not job.is_beneath(ahead):
        books.counters["ahead_out_of_turn"] += 1
    else:
        job.ahead = ahead


def _end_grant(books: VerifierBooks) -> None:
    """The edge drafts again: nothing is hosted after the step under way, if there is one."""
    job = books.job
    if job is None or not job.is_hosted:
        return
    if books.is_stepping:
        job.grant_end = job.base
    else:
        books.job = None


def _is_outrun(books: VerifierBooks, item: BatchItem) -> bool:
    """Whether the grant, running on while the edge drafted, has said this round and others
    after it. They are on their way, and the edge will draft on what they leave. Were one lost,
    it would say the round again: then all it has not seen is taken back."""
    start = item.base + len(item.append)
    is_first = item.run == 0 and item.try_ == 0 and not item.append
    log = books.log
    return (
        (is_first and log is not None and start < len(log))
        and books.line.starts(item.round, start)
        and log.agrees(item.base, item.hash)
    )


def admit_or_refuse(books: VerifierBooks, arrival: Arrival, now_s: float) -> None:
    """Admit work, or say why not. No step is under way."""
    books.waiting = None
    item, most = arrival.item, books.identity.max_context
    if _refresh(books, arrival):
        return
    if books.log is None or not books.log.agrees(item.base, item.hash):
        _wait_or_say_cold(books, arrival)
    elif (fault := find_place_fault(item, books.log.params, most)) is not None:
        books.reject(item.round, item.try_, fault)
    elif now_s > arrival.deadline_s:
        books.reject(item.round, item.try_, EXPIRED)
    elif item.run and item.try_ == 0 and books.answered.is_over:
        # More of a grant, asked for before its edge heard the last verdict, which is on its way.
        books.counters["outrun_grant"] += 1
    else:
        _admit(books, arrival)


def _refresh(books: VerifierBooks, arrival: Arrival) -> bool:
    """Whether this is the round at hand, said again: then only its try and time are new."""
    job, item = books.job, arrival.item
    if job is None or not job.is_asked_by(item):
        return False
    books.counters["duplicate_work"] += 1
    job.try_, job.budget_s = item.try_, arrival.budget_s
    if job.deadline_s is not None:
        job.deadline_s = max(job.deadline_s, arrival.deadline_s)
    if job.is_hosted:
        job.grant_end = job.base + item.run
    return True


def _wait_or_say_cold(books: VerifierBooks, arrival: Arrival) -> None:
    """Its context may still be on the way: then it waits, once. If it is said again and no
    chunk came in between, some were lost."""
    round_ = arrival.item.round
    if books.intake.is_worth_waiting_for(round_):
        books.waiting = arrival
        return
    books.intake.drop_before(round_)
    books.counters["cold"] += 1
    books.job = None
    answer = Cold(round=round_, try_=arrival.item.try_, at=books.verifier)
    books.out.append(Reply(answer))


def _admit(books: VerifierBooks, arrival: Arrival) -> None:
    item, log = arrival.item, books.log
    assert log is not None
    books.intake.drop_before(item.round + 1)
    start = item.base + len(item.append)
    round_ = item.round
    if item.run and item.try_ == 0 and not item.append and books.line.starts(round_, start):
        books.line.drop_before(round_)
        if books.job is not None:
            books.job.grant_end = start + item.run
            return
        round_ = books.line.newest_round  # the old grant ran out: go on where it stopped
    else:
        _rewind(books, arrival)
        books.line.clear()
        if item.run:
            books.line.begin(round_, start)
    if item.run and start + item.run <= len(log):
        return  # nothing left of this grant that was not said already
    books.job = Job(
        item=item,
        round=round_,
        try_=item.try_ if round_ == item.round else 0,
        base=len(log),
        hash=log.hash_at(len(log)),
        deadline_s=arrival.deadline_s,
        budget_s=arrival.budget_s,
        grant_end=start + item.run if item.run else 0,
    )


def _rewind(books: VerifierBooks, arrival: Arrival) -> None:
    """Make the log end at base + append. What of append is there already keeps its rows."""
    log, item = books.log, arrival.item
    assert log is not None
    held = log.view(item.base)
    num_held = num_common(held, np.asarray(item.append, dtype=np.int32))
    end = item.base + num_held
    if end < len(log):
        books.counters["truncated"] += 1
    log.truncate(end)
    log.extend(item.append[num_held:])
    books.rows = min(books.rows, end, len(log) - 1)
