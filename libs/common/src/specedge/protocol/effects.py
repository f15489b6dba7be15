"""What the two session machines are told and what they ask for: events in, effects out.

Both machines are ``machine.on(event, now_s) -> list[Effect]``. Effects are performed in order, by
the machine's one driver. Messages from the wire never raise out of a machine; a wrong local call
raises ``ProtocolViolation`` and changes nothing.
"""

from dataclasses import dataclass

from specedge.errors import SpecEdgeError
from specedge.ids import Round
from specedge.params import DraftPolicy as DraftPolicy
from specedge.protocol.messages import (
    Ahead,
    BatchItem,
    ContextHeader,
    DownMessage,
    Opened,
    Refused,
    TokenLogprobs,
    Verdict,
)
from specedge.protocol.subjects import Up
from specedge.tree.token_tree import IntArray, TokenTree

# ---------------------------------------------------------------- the edge's end: events


@dataclass(frozen=True, slots=True)
class Started:
    """The driver is ready; first event of every session."""


@dataclass(frozen=True, slots=True)
class OpenAnswered:
    """The scheduler's reply to an open request."""

    reply: Opened | Refused


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """No reply: nobody listens, or the link is down. The machine retries until its deadline."""

    error: SpecEdgeError


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """The answer to ``AskDraft``: a tree (nodes already ordered for the wire), or a grant: ``run``
    tokens that the verifier may produce alone, its tree not looked at.

    base  how many tokens were committed when ``tree`` was drafted; None: as many as ``AskDraft``
          said. Tokens of a grant may be committed meanwhile: the machine carries the tree over
          them, so a driver need not start again
    """

    tree: TokenTree
    run: int = 0
    base: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DraftedAhead:
    """What was drafted beyond the round that is out, for the verifier to go on with if the verdict
    leads into it. Sent at most once a round, and dropped where it comes too late or nobody takes
    such: nothing is owed for it.

    tree   on the same root as the round's own, what lies between included, ordered for the wire
    nodes  that the next round is to try at most
    base   how many tokens were committed when it was drafted
    """

    tree: TokenTree
    nodes: int
    base: int


@dataclass(frozen=True, slots=True)
class SwitchAsked:
    """The driver would rather answer now than when the grant is half used: to draft again, or to
    grant more. While a grant runs it brings ``AskDraft``; else that comes anyway, and this does
    nothing. What ``Drafted`` then says decides."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A message came on the session's down subject, already validated."""

    message: DownMessage


@dataclass(frozen=True, slots=True)
class TimerDue:
    """The moment asked for by the last ``SetTimer`` came. Early or stale calls are harmless."""


@dataclass(frozen=True, slots=True)
class LinkRestored:
    """The link reconnected: what was in flight may be lost, so say it again now."""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The client went away. Legal in every state."""


@dataclass(frozen=True, slots=True)
class CloseAsked:
    """The client has what it wanted (a stop string matched). Legal in every state."""


EdgeEvent = (
    Started
    | OpenAnswered
    | OpenFailed
    | Drafted
    | Answered
    | TimerDue
    | LinkRestored
    | DraftedAhead
    | SwitchAsked
    | CancelAsked
    | CloseAsked
)

# ---------------------------------------------------------------- the edge's end: effects


@dataclass(frozen=True, slots=True)
class RequestOpen:
    """Ask the scheduler for a place; answer with ``OpenAnswered`` or ``OpenFailed``."""

    payload: bytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SendUp:
    """Publish on the session's own up subject of that kind. If the link is down, drop it."""

    kind: Up
    payload: bytes


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send ``TimerDue`` at ``at_s``; replaces any earlier one. None: no timer."""

    at_s: float | None


@dataclass(frozen=True, slots=True)
class AskDraft:
    """The next round may be drafted now; answer with ``Drafted``, a tree or a grant. Asked after
    each verdict, or while a grant runs: when half of it is used. Exactly one is open at a time."""

    round: Round
    max_nodes: int
    base: int


@dataclass(frozen=True, slots=True, eq=False)
class Committed:
    """New tokens are certain: give them to the client and to the drafter.

    tokens     path + bonus, in order
    was_tree   whether the verdict answers a drafted tree of this edge (else it was hosted)
    verdict    the message itself, for its timing and log-probabilities
    round_trip_s  from the send of the try that was answered to now; None if hosted, or if it was
                  never sent, since its draft had been sent ahead
    next_tree  the next round's draft, if the verifier tries it already: it was sent ahead. Then no
               ``AskDraft`` follows
    """

    tokens: tuple[int, ...]
    was_tree: bool
    verdict: Verdict
    round_trip_s: float | None
    next_tree: TokenTree | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; nothing follows. ``error`` is None if it ended well.

    reason  "stop" | "length" (the verifier said so), "closed" | "cancelled" (the client did),
            "error"
    """

    reason: str
    error: SpecEdgeError | None = None


EdgeEffect = RequestOpen | SendUp | SetTimer | AskDraft | Committed | Ended

# ---------------------------------------------------------------- the verifier's end: events


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

# ---------------------------------------------------------------- the verifier's end: effects


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
