"""Everything that one session is at its verifier, and the few changes that all its parts share.

A record without rules of its own: ``verifier_session`` and the modules that it is made of
(``verifier_context``, ``verifier_work``, ``verifier_steps``, ``verifier_time``) change it, nobody
else. Half-open intervals of tokens:

    [0, rows)            their KV rows are valid in the slot (none without a slot)
    [rows, base)         the chain: committed, KV to be computed; the root is always among them
    [0, asked base)      what the edge knows of; a grant runs ahead of it, a rewind goes back to it

While a step is under way neither the log nor the rows change: what arrives waits for its end.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from specedge.protocol.answered_rounds import AnsweredRounds
from specedge.protocol.context_intake import ContextIntake
from specedge.protocol.effects import SetTimer
from specedge.protocol.grant_line import GrantLine
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.progress_timer import ProgressTimer
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verifier_effects import DropSlot, Reply, VerifierEffect
from specedge.protocol.verifier_job import Arrival, Job, VerifierSessionConfig, WantedStep
from specedge.protocol.verifier_states import VerifierState
from specedge.protocol.work_checks import Fault
from specedge.tree.token_tree import IntArray


class Lease(Enum):
    """Of a slot."""

    NONE = auto()
    ASKED = auto()
    HELD = auto()


@dataclass(slots=True, eq=False)
class VerifierBooks:
    """One session. ``verifier`` is the verifier's id, said in every answer.

    out            effects of the event at hand, in order
    log            committed tokens; None: no context is held
    is_prefilling  rows are computed ahead of any draft
    waiting        work that came before its context was complete
    next_work      work that came during a step
    asked          newest (round, try) that the edge named
    context_round  the round that the held context came with
    """

    limits: Limits
    identity: Identity
    verifier: str
    config: VerifierSessionConfig
    state: VerifierState = VerifierState.ABSENT
    out: list[VerifierEffect] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    log: TokenLog | None = None
    intake: ContextIntake = field(default_factory=ContextIntake)
    context_round: int = 0
    lease: Lease = Lease.NONE
    rows: int = 0
    is_prefilling: bool = False
    waiting: Arrival | None = None
    next_work: Arrival | None = None
    job: Job | None = None
    step: WantedStep | None = None
    asked: tuple[int, int] | None = None
    line: GrantLine = field(default_factory=GrantLine)
    answered: AnsweredRounds = field(default_factory=AnsweredRounds)
    timer: ProgressTimer = field(init=False)

    def __post_init__(self) -> None:
        self.timer = ProgressTimer(self.config.progress_s)

    @property
    def committed(self) -> IntArray:
        """Prompt and generated tokens, (base,) int32, read-only; empty if there is no context."""
        return np.empty(0, dtype=np.int32) if self.log is None else self.log.view()

    @property
    def is_stepping(self) -> bool:
        """Whether a step is under way."""
        return self.step is not None and self.step.has_begun

    @property
    def grant_left(self) -> int:
        """Tokens that the grant's present round may commit; 0: no grant runs."""
        return 0 if self.job is None else self.job.grant_left

    @property
    def rows_ahead(self) -> int:
        """Rows of the round at hand if its draft was sent ahead; 0: it was not, or none is."""
        job = self.job
        return 1 + len(job.item.token) if job is not None and job.is_ahead else 0

    def reject(self, round_: int, try_: int, fault: Fault, retry_ms: int | None = None) -> None:
        """Answer that round with the fault."""
        self.counters[f"rejected_{fault.reason}"] += 1
        answer = fault.as_rejected(round_, try_, self.verifier, retry_ms)
        self.out.append(Reply(answer))

    def drop_job(self, fault: Fault, retry_ms: int | None = None) -> None:
        """Reject the round at hand, if there is one, and forget it."""
        if self.job is not None:
            job, self.job = self.job, None
            self.reject(job.round, job.try_, fault, retry_ms)

    def drop_slot(self) -> None:
        """Give the slot back, with the rows that are valid in it."""
        self.out.append(DropSlot(self.committed[: self.rows]))
        self.lease, self.rows = Lease.NONE, 0

    def tell_timer(self, changed: SetTimer | None) -> None:
        """Pass on what the timer wants of the driver, if anything."""
        if changed is not None:
            self.out.append(changed)
