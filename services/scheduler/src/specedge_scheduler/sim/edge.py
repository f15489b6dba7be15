"""An edge in virtual time: the real session machine, and a drafter that only takes time.

It drafts ``min`` levels of its depth always, and more, up to ``max``, where that costs nothing
because verdicts tell that the next batch is formed later, or where it pays. While a draft is out it
drafts ahead; if what it prepared is what the verdict says, those levels are there at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from specedge.drafting.size_limit import SizeLimit
from specedge.drafting.time_left import passes_worth
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
from specedge.protocol.messages import DownMessage, Opened, Refused, SessionParams
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from specedge.tree.token_tree import TokenTree
from specedge_scheduler.sim.drafts import BONUS, expected_tokens, line_tree
from specedge_scheduler.sim.draws import uniform, uniforms
from specedge_scheduler.sim.events import VirtualTime
from specedge_scheduler.sim.measures import Measures
from specedge_scheduler.sim.scenario import EdgeSpec

TRIP_WEIGHT: Final = 0.2  # of the newest trip, in what trips take of late
LATE_GAIN: Final = 1.075  # that a draft which comes too late for the next batch must promise
CONFIG: Final = EdgeSessionConfig(open_s=5.0)

_HIT = 1  # what a draw is about


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

    def __init__(self, key: SessionKey, spec: EdgeSpec, text: int, ports: EdgePorts) -> None:
        self.key = key
        self.text = text
        self.spec = spec
        self.is_gone = False
        self._time = ports.time
        self._measures = ports.measures
        self._ask_open = ports.ask_open
        self._send_up = ports.send_up
        self._on_end = ports.on_end
        self._pass_s = spec.draft_pass_ms / 1000
        self._depth = spec.depth_range
        # Nodes of a level: a draft that is less deep is as wide, and so smaller.
        self._width = max(1.0, spec.nodes / max(1, self._depth.max))
        self._size = SizeLimit()
        params = SessionParams.model_construct(
            model="emulated",
            weights="aa",
            tokenizer="bb",
            prompt=spec.session.prompt_tokens,
            max_tokens=spec.session.output_tokens,
        )
        self._machine = EdgeSession(params, [BONUS] * params.prompt, CONFIG)
        longest = params.prompt + params.max_tokens + self._depth.max
        self.luck = uniforms(text, longest + 1)
        self._timer_s: float | None = None
        self._is_timer_out = False
        self._sent_s: float | None = None
        self._nodes_out = 0
        self._network_s: float | None = None  # of a trip, what was neither waiting nor a step
        self._due_s: float | None = None  # when the next draft should leave
        self._head_start = 0
        self._depth_out = 0  # levels of the last draft
        self._step_s = 0.05  # of the last step that it was in
        self.yields = expected_tokens(spec.acceptance, self._depth.max)
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
                    self._sent_s = self._time.now_s
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
                self._measures.note_session(
                    self.spec, self._num_tokens, self._last_s - self._first_s, effect
                )
                self._on_end(self, effect)

    # ------------------------------------------------------------ drafting

    def _on_committed(self, effect: Committed) -> None:
        now_s, timing = self._time.now_s, effect.verdict.timing
        num_tokens = len(effect.tokens)
        self._step_s = timing.step / 1000
        took_s = None
        if self._num_tokens:
            took_s = now_s - self._last_s
        else:
            self._first_s = now_s
        self._measures.note_tokens(self.spec, self.key, num_tokens, took_s, effect.verdict)
        self._num_tokens += num_tokens
        self._last_s = now_s
        self._size.note(self._nodes_out, effect.verdict.kept)
        self._due_s = self._due(effect, now_s)
        self._head_start = self._prepared(now_s, num_tokens)

    def _prepared(self, now_s: float, num_tokens: int) -> int:
        """Levels of the next draft that are there already."""
        if self.spec.proactive is None or self._sent_s is None:
            return 0
        # The first pass while waiting finds the tokens to bet on; each further one adds a level.
        passes = int((now_s - self._sent_s) / self._pass_s) if self._pass_s else self._depth.max + 1
        if passes < 1:
            return 0
        is_hit = self._is_hit(self.spec.proactive.hit, num_tokens)
        self._measures.note_bet(is_hit)
        return min(passes - 1, self._depth.max) if is_hit else 0

    def _due(self, committed: Committed, now_s: float) -> float | None:
        """When the next draft should leave, as an edge's pacing has it: ``next`` counts from the
        step's end to the draft's arrival, so what the network took of late is taken off."""
        timing, trip_s = committed.verdict.timing, committed.round_trip_s
        if trip_s is not None:
            away_s = max(0.0, trip_s - (timing.held + timing.queue + timing.step) / 1000)
            if self._network_s is None:
                self._network_s = away_s
            self._network_s += TRIP_WEIGHT * (away_s - self._network_s)
        if not timing.next or self._network_s is None:
            return None
        return now_s + timing.next / 1000 - self._network_s

    def _is_hit(self, share: float | None, num_tokens: int) -> bool:
        """Whether the verdict that committed so many tokens was the one that was prepared for."""
        base = self._machine.base
        if share is not None:
            return uniform(self.text, base, _HIT) < share
        depth, acceptance = num_tokens - 1, self.spec.acceptance
        chance = acceptance[min(depth, len(acceptance) - 1)]
        return depth == self._depth_out and self.luck[base - 1] < chance

    def _draft(self, ask: AskDraft) -> None:
        """Draft now; the machine is told when it is done."""
        now_s = self._time.now_s
        most_nodes = min(ask.max_nodes, self._size.most)
        most = min(self._depth.max, self._left(), int(most_nodes / self._width + 0.5))
        depth = self._choose_depth(min(self._depth.min, most), most, now_s)
        done_s = now_s + max(0, depth - self._head_start) * self._pass_s
        self._depth_out = depth
        tree = line_tree(depth, round(depth * self._width))
        self._nodes_out = tree.num_drafted
        self._time.call_at(done_s, self._say, ask, tree)

    def _choose_depth(self, least: int, most: int, now_s: float) -> int:
        """What costs nothing until the next batch is formed; more only if that pays well, since
        who comes too late may wait for a whole step. Where nobody said when, what pays."""
        head = min(self._head_start, most)
        free, left_s, gain = max(head, least), 0.0, 1.0
        if self._due_s is not None:
            left_s, gain = self._due_s - now_s, LATE_GAIN
            free = min(head + max(1, self._passes_worth(left_s, most)), most)

        def rate(depth: int) -> float:
            left_for_s = max(left_s, (depth - head) * self._pass_s)
            return self.yields[depth] / (left_for_s + (self._network_s or 0.0) + self._step_s)

        best = max(range(free, most + 1), key=rate, default=free)
        return best if best == free or rate(best) > gain * rate(free) else free

    def _passes_worth(self, left_s: float, most: int) -> int:
        """As an edge's pacing weighs them."""
        if not self._pass_s:
            return most

        def tokens(depth: int) -> float:
            return self.yields[min(depth, len(self.yields) - 1)]

        return passes_worth(left_s / self._pass_s, self._pass_s / self._step_s, tokens)

    def _left(self) -> int:
        """Levels that the answer still has room for."""
        return self.spec.session.output_tokens - self._num_tokens - 1

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
