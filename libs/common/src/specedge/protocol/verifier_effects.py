"""What a verifier's session is told and what it asks for; see ``effects``, which has the edge's."""

from dataclasses import dataclass

from specedge.protocol.effects import SetTimer, TimerDue
from specedge.protocol.messages import Ahead, BatchItem, ContextHeader, DownMessage, TokenLogprobs
from specedge.tree.token_tree import IntArray, TokenTree

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, eq=False)
class ContextArrived:
    """A chunk of context: ids (k,) int32 already range-checked against the vocabulary."""

    header: ContextHeader
    ids: IntArray


@dataclass(frozen=True, slots=True)
class WorkArrived:
    """A draft or a grant, as passed on by the scheduler. ``deadline_s`` is now + its budget."""

    item: BatchItem
    deadline_s: float


@dataclass(frozen=True, slots=True)
class AheadArrived:
    """A draft sent ahead, its bytes validated."""

    ahead: Ahead


@dataclass(frozen=True, slots=True)
class SlotGiven:
    """The answer to ``WantSlot``. ``rows_ready`` KV rows of the context are already there (a
    prefix kept from an earlier session of the same edge)."""

    rows_ready: int = 0


@dataclass(frozen=True, slots=True)
class SlotDenied:
    """The answer to ``WantSlot`` when none is free: the session stays without one, and its round
    is rejected as busy."""

    retry_ms: int


@dataclass(frozen=True, slots=True)
class SlotTaken:
    """The driver parked this session (only while it is idle: READY, no work): KV is gone."""


@dataclass(frozen=True, slots=True)
class StepBegun:
    """The work last asked for by ``WantStep`` goes into the step that starts now, with the first
    ``num_chain`` tokens of its chain: all of them, unless it is prefill."""

    num_chain: int


@dataclass(frozen=True, slots=True, eq=False)
class Stepped:
    """That step ended well.

    choice   (n,) int32 the target's choice at each node, node 0 the root; None for prefill
    logprobs per node, or None
    queue_ms, step_ms, step_rows, draft_ms   for the verdict's timing
    tree     of a hosted round: what the driver drafted itself, on the same root, and tried in place
             of the root alone; None: it did not
    """

    choice: IntArray | None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    queue_ms: float = 0.0
    step_ms: float = 0.0
    step_rows: int = 0
    draft_ms: float = 0.0
    tree: TokenTree | None = None


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step did not happen for this session (out of KV, engine error): reject, stay usable."""

    message: str
    retry_ms: int | None = None


@dataclass(frozen=True, slots=True)
class EndingArrived:
    """Cancel or close from the edge, or the driver gave the session up (idle too long, drain).
    ``Gone`` follows at once, or after the answer that the driver still owes: to ``WantSlot``, or
    the end of a step that has begun."""


VerifierEvent = (
    ContextArrived
    | WorkArrived
    | AheadArrived
    | SlotGiven
    | SlotDenied
    | SlotTaken
    | StepBegun
    | Stepped
    | StepFailed
    | EndingArrived
    | TimerDue
)

# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class WantSlot:
    """Lease a slot for ``num_tokens``; answer with ``SlotGiven`` or ``SlotDenied``."""

    num_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class DropSlot:
    """Give the slot back. Its first rows are valid and spell ``tokens``, (k,) int32: they may serve
    the same edge's next session. (The log itself may be elsewhere already.)"""

    tokens: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class WantStep:
    """Put this session into a step. The driver answers with ``StepBegun`` and then ``Stepped`` or
    ``StepFailed``; until ``StepBegun`` the machine may replace the work by another ``WantStep``,
    or withdraw it by ``Withdraw``.

    start        KV rows valid now
    chain        (c,) int32 committed tokens without KV, from position ``start`` on. For prefill
                 the driver may take any non-empty prefix of it, and says how much in ``StepBegun``
    tree         None: prefill. Else the draft on chain[-1]; root only for a grant, where the driver
                 may try a tree of its own instead (``Stepped.tree``), of which no more counts than
                 ``VerifierSession.grant_left`` tokens when the step begins
    deadline_s   earliest first, if the driver must choose; None: no deadline. The machine itself
                 withdraws and rejects what has expired, and each progress message extends it
    is_ahead     its draft was sent ahead: no batch brought it
    """

    start: int
    chain: IntArray
    tree: TokenTree | None
    deadline_s: float | None
    is_hosted: bool = False
    is_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Forget the work not yet begun."""


@dataclass(frozen=True, slots=True, eq=False)
class KeepRows:
    """Move the accepted path's KV rows: ``engine.keep(slot, base, path)``; before anything else is
    stepped on this slot."""

    base: int
    path: IntArray


@dataclass(frozen=True, slots=True)
class Reply:
    """Publish on the session's down subject."""

    message: DownMessage


@dataclass(frozen=True, slots=True)
class Gone:
    """The session ended; forget the machine. Any slot was dropped before."""


VerifierEffect = WantSlot | DropSlot | WantStep | Withdraw | KeepRows | Reply | Gone | SetTimer
