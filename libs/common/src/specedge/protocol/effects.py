"""What an edge's session is told and what it asks for: events in, effects out. The verifier's end
has its own in ``verifier_effects``.

Both machines are ``machine.on(event, now_s) -> list[Effect]``. Effects are performed in order, by
the machine's one driver. Messages from the wire never raise out of a machine; a wrong local call
raises ``ProtocolViolation`` and changes nothing.
"""

from dataclasses import dataclass

from specedge.errors import SpecEdgeError
from specedge.ids import Round
from specedge.protocol.messages import DownMessage, Verdict
from specedge.protocol.opening import Opened, Refused
from specedge.protocol.subjects import Up
from specedge.tree.token_tree import TokenTree

# ---------------------------------------------------------------- events


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

# ---------------------------------------------------------------- effects


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
