"""What verifiers and schedulers report of themselves. Strict frozen pydantic models.

A report's figures are absolute: one that is lost heals with the next.
"""

from typing import Annotated

from pydantic import Field

from specedge.protocol.body import Body, Count, Milliseconds, Part
from specedge.protocol.opening import Identity, Limits


class StepReport(Part):
    """One step as the estimator needs it.

    rows     rows of the forward pass       prefill  how many of them were prefill
    hosted   how many of them were of hosted rounds
    context  KV rows attended over, summed over sessions
    ms       the forward pass and the choices
    draft_ms the verifier's own drafting before it, for the hosted rounds; not part of ``ms``
    slack_ms how long the last of the edges' rounds in it had waited when it began
    """

    seq: Count
    rows: Count
    prefill: Count
    context: Count
    sessions: Count
    ms: Milliseconds
    hosted: Count = 0
    draft_ms: Milliseconds = 0.0
    slack_ms: Milliseconds = 0.0


class SessionReport(Part):
    """A session as its verifier holds it: its last answered round (-1: none) and state."""

    e: str
    s: str
    round: Annotated[int, Field(ge=-1, lt=2**31)]
    state: str = Field(max_length=16)


class AheadReport(Part):
    """A round that its verifier runs, or lets wait for a step, without a batch: its draft was sent
    ahead. ``rows`` of a step."""

    e: str
    s: str
    rows: Count


class Stat(Body):
    """Verifier → schedulers, after each step, and whenever 100 ms would pass without one. Absolute
    figures: a lost one heals.

    inc       random per process start; a new one means: everything in flight there is gone
    seq       numbered from 0 per incarnation
    sessions  every 100 ms or so: some of the sessions held, in turn: within a second or two each is
              named; None in other reports
    batches   seqs of batches held: queued or running; one that was held and is not is answered
    last      highest batch seq received, under ``epoch``
    begun     highest batch seq of which a round went into a step
    queued    rows waiting
    running   rows of the step running now, 0 if idle
    hosted    hosted rounds waiting
    ahead     rounds at hand whose drafts were sent ahead
    busy_s    seconds that the engine computed since its start, drafting of its own included
    """

    inc: str = Field(min_length=1, max_length=32)
    seq: Count
    identity: Identity
    limits: Limits
    slots: tuple[Count, Count]
    sessions: tuple[SessionReport, ...] | None = None
    epoch: tuple[int, int] = (0, 0)
    batches: tuple[Count, ...] = ()
    last: Count = 0
    begun: Count = 0
    queued: Count = 0
    running: Count = 0
    step_rows: Count = 0
    hosted: Count = 0
    ahead: tuple[AheadReport, ...] = ()
    busy_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    steps: tuple[StepReport, ...] = ()
    draining: bool = False


class SchedulerStat(Body):
    """Scheduler → observers."""

    inc: str
    seq: Count
    epoch: tuple[int, int]
    sessions: Count
    waiting: Count
    verifiers: Count
    batches_sent: Count
    refused: Count
