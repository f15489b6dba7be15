"""Everything that one session is at its edge, and the few changes that all its parts share.

A record without rules of its own: ``edge_session`` and the modules that it is made of
(``edge_place``, ``edge_sending``, ``edge_answers``) change it, nobody else.
"""

from collections import Counter
from dataclasses import dataclass, field

from specedge.errors import Busy, RetryableError, SpecEdgeError
from specedge.protocol.codec import encode
from specedge.protocol.edge_opening import EdgeOpening
from specedge.protocol.edge_round import EdgeRound
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import AskDraft, EdgeEffect, Ended, SendUp, SetTimer
from specedge.protocol.messages import Ending, SessionParams
from specedge.protocol.opening import Opened
from specedge.protocol.round_timer import EdgeSessionConfig, RoundTimer
from specedge.protocol.subjects import Up
from specedge.protocol.token_log import TokenLog
from specedge.tree.token_tree import IntArray


@dataclass(slots=True, eq=False)
class EdgeBooks:
    """One session.

    out            effects of the event at hand, in order
    log            committed tokens, once the handshake has completed the params
    verifier       the one that spoke last, or that the scheduler named
    current        the round to be answered next
    ask_base       base of the open AskDraft; None: none is open
    timer_at_s     when the driver was told to ring; None: never
    is_backing_off the timer ends a pause that was asked for, not a silence
    advanced_s     last verdict, or progress that moved
    is_in_line     since then a verifier said that it has no time: by progress that did not move,
                   or in so many words
    """

    params: SessionParams
    prompt: IntArray
    config: EdgeSessionConfig
    opening: EdgeOpening
    state: EdgeState = EdgeState.NEW
    out: list[EdgeEffect] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    log: TokenLog = field(init=False)
    opened: Opened | None = None
    verifier: str = ""
    current: EdgeRound = field(default_factory=EdgeRound)
    ask_base: int | None = None
    timer: RoundTimer = field(init=False)
    timer_at_s: float | None = None
    is_backing_off: bool = False
    advanced_s: float = 0.0
    is_in_line: bool = False
    progress: tuple[int, int] = (-1, -1)
    no_verifier_since_s: float | None = None

    def __post_init__(self) -> None:
        self.log = TokenLog(self.params)
        self.timer = RoundTimer(self.config)

    @property
    def is_running(self) -> bool:
        """Whether a round or a grant is out."""
        return self.state in (EdgeState.AWAITING, EdgeState.HOSTED)

    def give_up(self) -> None:
        """Nothing advanced for too long."""
        waited = f"for {self.config.give_up_s:g} s"
        if self.is_in_line:
            self.end("error", Busy(f"the verifier had no time for this request {waited}"))
        else:
            self.end("error", RetryableError(f"no answer from the cloud {waited}"))

    @property
    def give_up_at_s(self) -> float:
        """When the session ends if nothing advances until then."""
        return self.advanced_s + self.config.give_up_s

    def ask_draft(self) -> None:
        """Ask the driver what to send next, unless it is asked already."""
        if self.ask_base is None:
            assert self.opened is not None
            self.ask_base = len(self.log)
            self.out.append(AskDraft(self.current.number, self.opened.limits.nodes, self.ask_base))

    def note_advance(self, now_s: float) -> None:
        """A round was answered: whoever answers is there, and in time."""
        self.timer.reset()
        self.advanced_s, self.is_in_line = now_s, False
        self.no_verifier_since_s = None

    def wait(self, now_s: float) -> None:
        """For the answer to what is out, from now on."""
        self.is_backing_off = False
        self.set_timer(min(now_s + self.timer.wait_s, self.give_up_at_s))

    def set_timer(self, at_s: float | None) -> None:
        """Tell the driver, if that is news."""
        if at_s != self.timer_at_s:
            self.timer_at_s = at_s
            self.out.append(SetTimer(at_s))

    def end(self, reason: str, error: SpecEdgeError | None = None) -> None:
        """The session is over, here and in the cloud."""
        self.set_timer(None)
        if self.state is not EdgeState.NEW:
            kind = Up.CANCEL if reason == "cancelled" else Up.CLOSE
            self.out.append(SendUp(kind, encode(Ending(round=self.current.number))))
        self.state = EdgeState.ENDED
        self.ask_base = None
        self.out.append(Ended(reason, error))
