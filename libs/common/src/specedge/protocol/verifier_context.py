"""A verifier session's context: it comes in chunks, and once complete replaces what was held.

Functions over ``VerifierBooks``, for ``verifier_session`` and its other parts.
"""

import numpy as np

from specedge.protocol.opening import Reason
from specedge.protocol.token_log import TokenLog, num_common
from specedge.protocol.verifier_books import VerifierBooks
from specedge.protocol.verifier_effects import ContextArrived
from specedge.protocol.verifier_job import Arrival
from specedge.protocol.work_checks import Fault, find_context_fault


def take_context(books: VerifierBooks, event: ContextArrived) -> None:
    """A chunk came: kept until all are here, unless it is faulty, old, or says what is held."""
    header = event.header
    fault = find_context_fault(header, event.ids, books.identity, books.limits)
    if fault is not None:
        books.reject(header.round, 0, fault)
    elif books.asked is not None and header.round < books.asked[0]:
        books.counters["stale_context"] += 1
    elif books.log is not None and books.log.agrees(header.total, header.hash):
        books.counters["held_context"] += 1
    else:
        count = books.intake.take(header, event.ids)
        books.counters.update([count] if count else [])


def install_context(books: VerifierBooks) -> None:
    """The context is complete: it replaces what was held. Rows of a common prefix stay."""
    assembly = books.intake.pop()
    header = assembly.header
    log = TokenLog(header.params, assembly.tokens)
    if log.hash_at(len(log)) != header.hash:
        message = "hash does not fit the params and tokens of the context"
        books.reject(header.round, 0, Fault(Reason.INVALID, message, "hash"))
        books.waiting = None
        return
    if books.job is not None and books.waiting is None:
        job = books.job
        books.waiting = Arrival(job.item, job.deadline_s or np.inf, job.budget_s)
    common = 0 if books.log is None else num_common(books.log.view(), log.view())
    books.rows = min(books.rows, common, len(log) - 1)
    books.job, books.log = None, log
    books.line.clear()
    books.context_round = header.round
    books.is_prefilling = True
