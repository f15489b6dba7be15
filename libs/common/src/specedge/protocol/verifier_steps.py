"""A verifier session's slot and steps: what to ask for next, and what the end of a step means.

Functions over ``VerifierBooks``, for ``verifier_session``. One step is wanted, or under way, at a
time.
"""

from dataclasses import replace

from specedge.protocol.opening import Reason
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verdicts import Outcome, decide, verdict_of
from specedge.protocol.verifier_books import Lease, VerifierBooks
from specedge.protocol.verifier_context import install_context
from specedge.protocol.verifier_effects import (
    KeepRows,
    Reply,
    SlotDenied,
    SlotGiven,
    SlotTaken,
    StepFailed,
    Stepped,
    WantSlot,
    WantStep,
    Withdraw,
)
from specedge.protocol.verifier_job import Answered, Job, WantedStep, job_ahead
from specedge.protocol.verifier_work import admit_or_refuse
from specedge.protocol.wire_tree import from_wire
from specedge.protocol.work_checks import Fault
from specedge.tree.token_tree import TokenTree


def ask_for_next(books: VerifierBooks, now_s: float) -> None:
    """Ask for what is needed next. Nothing while a step is under way."""
    if books.is_stepping:
        return
    if books.intake.is_complete:
        install_context(books)
    if books.waiting is not None and not books.intake.is_open:
        admit_or_refuse(books, books.waiting, now_s)
    if books.log is None or (books.job is None and not books.is_prefilling):
        want(books, None)
    elif books.lease is Lease.NONE:
        books.lease = Lease.ASKED
        books.out.append(WantSlot(len(books.log) + books.limits.nodes))
    elif books.lease is Lease.HELD:
        want(books, _plan_step(books, books.log))


def _plan_step(books: VerifierBooks, log: TokenLog) -> WantedStep | None:
    num_tail, job = len(log) - books.rows, books.job
    if job is not None and num_tail <= books.config.max_chain_tokens:
        chain = log.view(books.rows)
        tree = TokenTree.root_only(log.root) if job.is_hosted else from_wire(log.root, job.item)
    elif num_tail > 1:
        chain, tree, job = log.view(books.rows, len(log) - 1), None, None
    else:
        books.is_prefilling = False
        return None
    key = (books.rows, len(log), log.hash_at(len(log)), job)
    return WantedStep(key, books.rows, chain, tree, job)


def want(books: VerifierBooks, step: WantedStep | None) -> None:
    """Replace the wanted step, if the new one differs."""
    if step is None:
        if books.step is not None:
            books.out.append(Withdraw())
        books.step = None
    elif books.step is None or books.step.key != step.key:
        books.step = step
        deadline_s = None if books.job is None else books.job.deadline_s
        is_hosted = step.job is not None and step.job.is_hosted
        is_ahead = step.job is not None and step.job.is_ahead
        books.out.append(
            WantStep(step.start, step.chain, step.tree, deadline_s, is_hosted, is_ahead)
        )


def note_slot(books: VerifierBooks, event: SlotGiven | SlotDenied | SlotTaken) -> None:
    """What became of the slot. Without one the round at hand is refused."""
    match event:
        case SlotGiven(rows_ready):
            books.lease = Lease.HELD
            books.rows = min(rows_ready, max(len(books.committed) - 1, 0))
        case SlotTaken():
            books.lease, books.rows = Lease.NONE, 0
        case SlotDenied(retry_ms):
            books.lease, books.is_prefilling = Lease.NONE, False
            books.drop_job(Fault(Reason.BUSY, "no slot is free", ""), retry_ms)


def begin_step(books: VerifierBooks, num_chain: int) -> None:
    """The wanted step begins, with so much of its chain: from now on what arrives waits."""
    assert books.step is not None
    books.step.num_chain, books.step.has_begun = num_chain, True
    books.step.limit = books.grant_left or None


def end_step(books: VerifierBooks, event: Stepped | StepFailed, now_s: float) -> None:
    """The step is over: its verdict is said, and what arrived meanwhile is looked at."""
    step, books.step = books.step, None
    assert step is not None
    match event:
        case StepFailed(message, retry_ms):
            books.is_prefilling = False
            fault = Fault(Reason.BUSY, f"the step failed: {message}"[:300], "")
            retry = books.config.retry_ms if retry_ms is None else retry_ms
            books.drop_job(fault, retry)
        case Stepped():
            if step.job is None:
                books.rows += step.num_chain
            else:
                _publish(books, step, step.job, event, now_s)
    arrival, books.next_work = books.next_work, None
    if arrival is None:
        return
    if books.answered.is_newest(arrival.item):
        books.counters["answered_by_grant"] += 1  # by the verdict that was just said
    else:
        admit_or_refuse(books, arrival, now_s)


def _publish(
    books: VerifierBooks, step: WantedStep, job: Job, event: Stepped, now_s: float
) -> None:
    log, tree = books.log, step.tried(event.tree)
    assert log is not None
    assert tree is not None and event.choice is not None
    base = len(log)
    outcome = decide(tree, event.choice, event.logprobs, log.params, base, step.limit)
    log.extend(outcome.tokens)
    books.rows = base + len(outcome.path)
    books.job = _following(books, job, outcome, now_s)
    verdict = verdict_of(
        outcome,
        job,
        log,
        at=books.verifier,
        num_tried=tree.num_drafted,
        num_ahead=max(books.rows_ahead - 1, 0),
        step=event,
    )
    books.answered.note(Answered(job.base, job.hash, verdict), was_ahead=job.is_ahead)
    books.out.append(Reply(verdict))
    if len(outcome.path):
        books.out.append(KeepRows(base, outcome.path))
    books.timer.restart()
    books.is_prefilling = False
    if outcome.final is not None:
        books.drop_slot()


def _following(books: VerifierBooks, job: Job, outcome: Outcome, now_s: float) -> Job | None:
    """The next round, if there is one already: the grant's, or that of a draft sent ahead."""
    assert books.log is not None
    base = len(books.log)
    if outcome.final is not None:
        books.line.clear()
        return None
    if job.is_hosted:
        books.line.add(job.round + 1, base)
    if job.ahead is not None:
        most, last = books.limits.nodes, books.identity.max_context
        following = job_ahead(job, books.log, now_s, max_nodes=most, max_context=last)
        books.counters["ahead_missed" if following is None else "ahead_used"] += 1
        return following
    if base >= job.grant_end:
        return None
    hash_ = books.log.hash_at(base)
    return replace(job, round=job.round + 1, try_=0, base=base, hash=hash_, deadline_s=None)
