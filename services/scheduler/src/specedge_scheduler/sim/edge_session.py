"""One session of an edge in virtual time: the real session machine, and whoever does what it asks
for: the edge's link, a drafter that only takes time, timers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from specedge.ids import SessionKey
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.edge_states import EdgeState
from specedge.protocol.effects import (
    Answered,
    AskDraft,
    Committed,
    Drafted,
    EdgeEffect,
    EdgeEvent,
    Ended,
    OpenAnswered,
    RequestOpen,
    SendUp,
    SetTimer,
    Started,
    TimerDue,
)
from specedge.protocol.messages import DownMessage, SessionParams
from specedge.protocol.opening import Opened, Refused
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from specedge.tree.token_tree import TokenTree
from specedge_scheduler.sim.drafts import BONUS
from specedge_scheduler.sim.draws import uniforms
from specedge_scheduler.sim.edge import SimEdge
from specedge_scheduler.sim.edge_drafter import SimDrafter
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.measures import Measures

CONFIG: Final = EdgeSessionConfig(open_s=5.0)


@dataclass(frozen=True, slots=True)
class EdgePorts:
    """What a session meets: ``ask_open`` and ``send_up`` put messages on its edge's link;
    ``on_end`` is called once."""

    time: VirtualTime
    measures: Measures
    ask_open: Callable[["SimSession", bytes], None]
    send_up: Callable[["SimSession", Up, bytes], None]
    on_end: Callable[["SimSession", Ended], None]


class SimSession:
    """One session of one edge, from its opening to its end.

    text    names what it is about       luck  drawn for each of its positions
    yields  its rounds' tokens by levels, 0 …, on average
    """

    def __init__(self, key: SessionKey, edge: SimEdge, text: int, ports: EdgePorts) -> None:
        self.key = key
        self.text = text
        self.spec = spec = edge.spec
        self.is_gone = False
        self._time = ports.time
        self._measures = ports.measures
        self._ask_open = ports.ask_open
        self._send_up = ports.send_up
        self._on_end = ports.on_end
        params = SessionParams.model_construct(
            model="emulated",
            weights="aa",
            tokenizer="bb",
            prompt=spec.session.prompt_tokens,
            max_tokens=spec.session.output_tokens,
        )
        self._machine = EdgeSession(params, [BONUS] * params.prompt, CONFIG)
        longest = params.prompt + params.max_tokens + spec.depth_range.max
        self.luck = uniforms(text, longest + 1)
        self._drafter = SimDrafter(spec, edge.device, text, self.luck, ports.measures)
        self.yields = self._drafter.yields
        self._timer_s: float | None = None
        self._is_timer_out = False
        self._opened_s = self._first_s = self._last_s = 0.0
        self._num_tokens = 0

    def start(self) -> None:
        """Open the session."""
        self._opened_s = self._time.now_s
        self.tell(Started())

    def fall_silent(self) -> None:
        """Vanish without a word."""
        self.is_gone = True

    @property
    def is_open(self) -> bool:
        """Whether it was given a place."""
        return self._machine.opened is not None

    def hear(self, message: DownMessage) -> None:
        """A message of the session's down subject."""
        self.tell(Answered(message))

    def hear_open(self, reply: Opened | Refused) -> None:
        """The answer to its opening."""
        self._measures.note_open(self._time.now_s - self._opened_s, reply)
        self.tell(OpenAnswered(reply))

    def tell(self, event: EdgeEvent) -> None:
        """Let the machine have an event, and do what it asks for."""
        if not self.is_gone:
            for effect in self._machine.on(event, self._time.now_s):
                self._perform(effect)

    def _perform(self, effect: EdgeEffect) -> None:
        match effect:
            case SendUp(kind, payload):
                if kind is Up.DRAFT:
                    self._drafter.on_sent(self._time.now_s)
                self._send_up(self, kind, payload)
            case SetTimer(at_s):
                self._set_timer(at_s)
            case Committed():
                self._on_committed(effect)
            case AskDraft():
                self._draft(effect)
            case RequestOpen(payload):
                self._ask_open(self, payload)
            case Ended():
                self.is_gone = True
                self._drafter.stop(self._time.now_s)
                self._measures.note_session(
                    self.spec, self._num_tokens, self._last_s - self._first_s, effect
                )
                self._on_end(self, effect)

    # ------------------------------------------------------------ drafting

    def _on_committed(self, effect: Committed) -> None:
        now_s, num_tokens = self._time.now_s, len(effect.tokens)
        took_s = None
        if self._num_tokens:
            took_s = now_s - self._last_s
        else:
            self._first_s = now_s
        self._measures.note_tokens(self.spec, self.key, num_tokens, took_s, effect.verdict)
        self._num_tokens += num_tokens
        self._last_s = now_s
        self._drafter.on_committed(effect, self._machine.base, now_s)

    def _draft(self, ask: AskDraft) -> None:
        """Draft now; the machine is told when it is done."""
        # Levels that the answer still has room for.
        room = self.spec.session.output_tokens - self._num_tokens - 1
        tree, done_s = self._drafter.draft(ask.max_nodes, room, self._time.now_s)
        self._time.call_at(done_s, self._say, ask, tree)

    def _say(self, ask: AskDraft, tree: TokenTree) -> None:
        is_asked = self._machine.state in (EdgeState.DRAFTING, EdgeState.HOSTED)
        if not self.is_gone and is_asked and self._machine.round == ask.round:
            self.tell(Drafted(tree, base=ask.base))

    # ------------------------------------------------------------ time

    def _set_timer(self, at_s: float | None) -> None:
        """One call is out at a time; it looks at what is wanted then."""
        self._timer_s = at_s
        if at_s is not None and not self._is_timer_out:
            self._is_timer_out = True
            self._time.call_at(at_s, self._on_timer)

    def _on_timer(self) -> None:
        self._is_timer_out = False
        at_s = self._timer_s
        if at_s is None or self.is_gone:
            return
        if at_s > self._time.now_s + 1e-9:
            self._set_timer(at_s)
            return
        self._timer_s = None
        self.tell(TimerDue())
