"""Whether an edge's message is let in: model, fingerprints, lengths, places, and its rate. Pure.

Refusals say what was wrong in the request's own words, or how long to wait.
"""

import math
from collections.abc import Iterable
from typing import Final

from specedge.ids import EdgeId, GroupId
from specedge.protocol.body import PROTOCOL_VERSION
from specedge.protocol.messages import Draft, Rejected
from specedge.protocol.opening import Identity, Limits, Opened, OpenRequest, Reason, Refused
from specedge.protocol.work_checks import find_size_fault
from specedge_scheduler.policy.dispatch import room_of
from specedge_scheduler.policy.pace import keeps_objective
from specedge_scheduler.policy.placement import has_free_slot
from specedge_scheduler.policy.types import SchedulerLimits
from specedge_scheduler.views import Verifier

RETRY_FLOOR_MS: Final = 10
LINE_WEIGHT: Final = 0.1
SHORTEST_S: Final = 0.1
LONGEST_S: Final = 10.0


class TokenBucket:
    """A rate with a burst. Never holds more than ``capacity``; may be overdrawn by one message, so
    that one larger than the bucket is not refused for ever."""

    def __init__(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._capacity = capacity
        self._level = capacity
        self._at_s = now_s

    def take(self, amount: float, now_s: float) -> bool:
        """Pay, if something may be taken now; whether it may."""
        if self._refill(now_s) <= 0:
            return False
        self._level -= amount
        return True

    def give_back(self, amount: float) -> None:
        """What was paid was not wanted."""
        self._level += amount

    def wait_ms(self, now_s: float) -> int:
        """0 if something may be taken now, else how long until it may."""
        if self._refill(now_s) > 0:
            return 0
        return max(RETRY_FLOOR_MS, math.ceil(-self._level / self._rate_per_s * 1000))

    def is_full(self, now_s: float) -> bool:
        """Whether nothing was taken of late."""
        return self._refill(now_s) >= self._capacity

    def _refill(self, now_s: float) -> float:
        level = self._level + (now_s - self._at_s) * self._rate_per_s
        self._level = level = level if level < self._capacity else self._capacity
        self._at_s = now_s
        return level


def refuse_open(
    request: OpenRequest,
    verifiers: Iterable[Verifier],
    limits: SchedulerLimits,
    busy_ms: int,
    *,
    is_away: bool = False,
) -> Refused | None:
    """Why no verifier can take this session, or None: then one of ``serving`` can. ``is_away``: its
    model was served before, and is by nobody now."""
    if PROTOCOL_VERSION not in request.versions:
        return Refused(
            refused=Reason.VERSION,
            message=f"this cloud speaks version {PROTOCOL_VERSION} of the protocol, "
            f"the edge {list(request.versions)}",
            field="versions",
        )
    alive = [verifier for verifier in verifiers if not verifier.stat.draining]
    if not alive or is_away:
        of_it = f" that serves {request.model!r}" if is_away else ""
        return Refused(
            refused=Reason.NO_VERIFIER,
            message=f"no verifier{of_it} is running"[:1000],
            retry_ms=limits.no_verifier_retry_ms,
        )
    named = [verifier for verifier in alive if verifier.stat.identity.model == request.model]
    if not named:
        names = ", ".join(sorted({verifier.stat.identity.model for verifier in alive}))
        return Refused(
            refused=Reason.UNKNOWN_MODEL,
            message=f"no verifier serves {request.model!r}; served: {names}"[:1000],
            field="model",
        )
    if not any(verifier.stat.identity.tokenizer == request.tokenizer for verifier in named):
        return _mismatch(request, named[0].stat.identity)
    fitting = serving(request, named)
    if not fitting:
        return _too_long(request, named)
    free = [verifier for verifier in fitting if has_free_slot(verifier)]
    if not free:
        return Refused(
            refused=Reason.BUSY, message="every verifier's slots are taken", retry_ms=busy_ms
        )
    if not any(keeps_places(verifier, limits) for verifier in free):
        return Refused(
            refused=Reason.BUSY,
            message=f"one more session would slow the others below one token in "
            f"{limits.objective_ms:g} ms",
            retry_ms=busy_ms,
        )
    return None


def keeps_places(verifier: Verifier, limits: SchedulerLimits) -> bool:
    """Whether one more session finds a place there, and lets all keep the objective. The first one
    always does: what is known of an empty verifier can be corrected by nobody else."""
    if not has_free_slot(verifier):
        return False
    return not verifier.sessions or keeps_objective(
        verifier, room_of(verifier, limits), limits.objective_ms
    )


class WaitingLine:
    """How long somebody who is refused had better wait: nobody stands in line, but places come free
    one after another, and the edges that were refused lately want them too. However often an edge
    asks, and for however many sessions, it is one of these."""

    def __init__(self, first_s: float) -> None:
        self._gap_s = first_s  # between two sessions that end
        self._ended_s: float | None = None
        self._refused_s: dict[EdgeId, float] = {}  # when, the latest last

    def note_end(self, now_s: float) -> None:
        """A session ended: a place is free."""
        if self._ended_s is not None:
            self._gap_s += LINE_WEIGHT * (min(now_s - self._ended_s, LONGEST_S) - self._gap_s)
        self._ended_s = now_s

    def note_place(self, edge: EdgeId) -> None:
        """The edge got one."""
        self._refused_s.pop(edge, None)

    def refuse_ms(self, edge: EdgeId, now_s: float) -> int:
        """The edge is refused: when to ask again, in milliseconds. Those refused before were told
        no longer than ``LONGEST_S``, and count for as long: who comes back is counted then."""
        self._refused_s.pop(edge, None)
        self._refused_s[edge] = now_s
        for other, refused_s in list(self._refused_s.items()):
            if refused_s > now_s - LONGEST_S:
                break
            del self._refused_s[other]
        wait_s = self._gap_s * len(self._refused_s)
        return round(1000 * min(LONGEST_S, max(SHORTEST_S, wait_s)))


def serving(request: OpenRequest, verifiers: Iterable[Verifier]) -> list[Verifier]:
    """Verifiers that could hold the session: model, tokenizer and length fit."""
    return [
        verifier
        for verifier in verifiers
        if not verifier.stat.draining
        and verifier.stat.identity.model == request.model
        and verifier.stat.identity.tokenizer == request.tokenizer
        and verifier.stat.limits.context >= request.context
    ]


def opened(verifier: Verifier, group: GroupId, max_batch_nodes: int) -> Opened:
    """The answer that lets an edge begin."""
    theirs = verifier.stat.limits
    limits = Limits(
        nodes=min(theirs.nodes, max(0, max_batch_nodes - 1)),
        append=theirs.append,
        context=theirs.context,
        grant=theirs.grant,
        ahead=theirs.ahead,
    )
    return Opened(at=verifier.name, group=group, limits=limits, identity=verifier.stat.identity)


def refuse_draft(draft: Draft, limits: Limits) -> Rejected | None:
    """Why this draft is over what its session was allowed, or None."""
    fault = find_size_fault(draft, limits)
    return None if fault is None else fault.as_rejected(draft.round, draft.try_, "", None)


def _mismatch(request: OpenRequest, identity: Identity) -> Refused:
    return Refused(
        refused=Reason.FINGERPRINT,
        message=f"the edge's tokenizer {request.tokenizer} is not that of {identity.model}, "
        f"{identity.tokenizer}",
        field="tokenizer",
        ours=identity.tokenizer,
        theirs=request.tokenizer,
    )


def _too_long(request: OpenRequest, verifiers: Iterable[Verifier]) -> Refused:
    longest = max(verifier.stat.limits.context for verifier in verifiers)
    return Refused(
        refused=Reason.TOO_LONG,
        message=f"the context limit is {longest} tokens, {request.context} were asked for",
        field="context",
    )
