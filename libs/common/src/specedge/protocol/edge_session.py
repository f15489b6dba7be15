"""The edge's end of a session: events in, effects out.

Rule 1: every change of an edge session's state happens here; ``EDGE_TRANSITIONS`` bounds it.
Rule 2: no clock, no link, no drafter. Time comes in as ``now_s``, work goes out as effects.
Rule 3: a wrong local call raises ``ProtocolViolation`` and changes nothing; the wire never raises.

The edge is the source of truth: the log of committed tokens here is the session, and every failure
elsewhere is healed by saying the round again, with the whole context first if the verifier is cold.
Rounds number from 0; a try is one send of a round. One round, or one grant, is out at a time.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from specedge.errors import ProtocolViolation, RetryableError, SpecEdgeError
from specedge.ids import Round
from specedge.protocol.codec import encode
from specedge.protocol.context import context_chunks
from specedge.protocol.edge_opening import EdgeOpening
from specedge.protocol.edge_round import EdgeRound
from specedge.protocol.edge_states import EDGE_TRANSITIONS, EdgeState, kind_of
from specedge.protocol.effects import (
    Answered,
    AskDraft,
    CancelAsked,
    CloseAsked,
    Committed,
    Drafted,
    DraftedAhead,
    EdgeEffect,
    EdgeEvent,
    Ended,
    LinkRestored,
    OpenAnswered,
    OpenFailed,
    SendUp,
    SetTimer,
    Started,
    SwitchAsked,
    TimerDue,
)
from specedge.protocol.messages import (
    RETRYABLE_REASONS,
    Cold,
    DownMessage,
    Ending,
    Limits,
    Opened,
    OpenRequest,
    Progress,
    Reason,
    Refused,
    Rejected,
    SessionParams,
    Verdict,
)
from specedge.protocol.moments import is_up
from specedge.protocol.refusals import error_of, mismatch_of
from specedge.protocol.round_timer import EdgeSessionConfig, RoundTimer
from specedge.protocol.subjects import Up
from specedge.protocol.token_log import TokenLog
from specedge.tree.path import reroot
from specedge.tree.token_tree import IntArray, TokenTree

_RUNNING = (EdgeState.AWAITING, EdgeState.HOSTED)


class EdgeSession:
    """One session. ``params`` are what the verifier will be told (its ``weights`` may be
    ``refusals.ANY_WEIGHTS``), ``prompt`` (params.prompt,) ids. One owner drives it."""

    def __init__(
        self,
        params: SessionParams,
        prompt: IntArray | Sequence[int],
        config: EdgeSessionConfig | None = None,
        *,
        drafter: str = "",
    ) -> None:
        if len(prompt) != params.prompt:
            raise ValueError("params.prompt must be the prompt's length")
        self.counters: Counter[str] = Counter()
        self._config = config or EdgeSessionConfig()
        self._params = params
        self._prompt = np.array(prompt, dtype=np.int32)
        self._log = TokenLog(params)  # filled once the handshake has completed the params
        request = encode(
            OpenRequest(
                model=params.model,
                tokenizer=params.tokenizer,
                context=params.prompt + params.max_tokens,
                drafter=drafter,
            )
        )
        self._state = EdgeState.NEW
        self._out: list[EdgeEffect] = []
        self._opened: Opened | None = None
        self._opening = EdgeOpening(request, self._config)
        self._verifier = ""
        self._current = EdgeRound()
        self._ask_base: int | None = None  # base of the open AskDraft; None: none is open
        self._timer = RoundTimer(self._config)
        self._timer_at_s: float | None = None
        self._is_backing_off = False  # the timer ends a pause that was asked for, not a silence
        self._heard_s = 0.0  # last send or verdict: where a hosted round's time starts
        self._advanced_s = 0.0  # last verdict, or progress that moved
        self._progress = (-1, -1)
        self._no_verifier_since_s: float | None = None

    # ------------------------------------------------------------ what others may read

    @property
    def state(self) -> EdgeState:
        """Where the session stands."""
        return self._state

    @property
    def committed(self) -> IntArray:
        """Prompt and generated tokens, (base,) int32, the root last; not to be written."""
        return self._prompt if self._opened is None else self._log.view()

    @property
    def base(self) -> int:
        """How many tokens are committed."""
        return len(self.committed)

    @property
    def round(self) -> Round:
        """The current round: the next one to be answered."""
        return self._current.number

    @property
    def params(self) -> SessionParams:
        """As the verifier is told them; complete once the session is open."""
        return self._params

    @property
    def opened(self) -> Opened | None:
        """The scheduler's answer, once there is one."""
        return self._opened

    @property
    def limits(self) -> Limits | None:
        """What this session may ask for, once it is open."""
        return self._opened.limits if self._opened else None

    @property
    def group(self) -> str:
        """The <target> of this session's up subjects, once it is open."""
        return self._opened.group if self._opened else ""

    @property
    def verifier(self) -> str:
        """The verifier that spoke last, or the one that the scheduler named."""
        return self._verifier

    @property
    def round_trip_s(self) -> float | None:
        """The usual time from a send to its verdict, to start the next session with."""
        return self._timer.round_trip_s

    # ------------------------------------------------------------ events

    def on(self, event: EdgeEvent, now_s: float) -> list[EdgeEffect]:
        """Take one event; perform the effects in order before the next one."""
        kind = kind_of(event)
        allowed = EDGE_TRANSITIONS[self._state].get(kind)
        if allowed is None:
            raise ProtocolViolation(f"{kind.__name__} is out of turn when {self._state}")
        self._out = []
        if self._state is EdgeState.ENDED:
            self.counters["after_end"] += 1
        else:
            self._dispatch(event, now_s)
        assert self._state in allowed, f"{kind.__name__}: table does not allow {self._state}"
        return self._out

    def _dispatch(self, event: EdgeEvent, now_s: float) -> None:
        match event:
            case Answered(message):
                self._on_answer(message, now_s)
            case OpenAnswered() | OpenFailed():
                self._on_open_outcome(event, now_s)
            case Drafted():
                self._on_drafted(event, now_s)
            case TimerDue():
                self._on_timer(now_s)
            case Started():
                self._state = EdgeState.OPENING
                self._request_open(now_s)
            case LinkRestored():
                self._on_link_restored(now_s)
            case DraftedAhead():
                self._on_drafted_ahead(event)
            case SwitchAsked():
                self._on_switch_asked()
            case CancelAsked() | CloseAsked():
                self._end("cancelled" if isinstance(event, CancelAsked) else "closed")

    # ------------------------------------------------------------ opening

    def _request_open(self, now_s: float) -> None:
        self._set_timer(None)
        self._out.append(self._opening.ask(now_s))

    def _on_open_outcome(self, event: OpenAnswered | OpenFailed, now_s: float) -> None:
        if self._state is not EdgeState.OPENING or not self._opening.is_out:
            self.counters["stale_open"] += 1
            return
        self._opening.is_out = False
        match event:
            case OpenFailed(error):
                self._retry_open(error, now_s)
            case OpenAnswered(Refused() as refused):
                self._retry_open(error_of(refused, self._params.tokenizer), now_s)
            case OpenAnswered(Opened() as opened):
                self._on_opened(opened, now_s)

    def _retry_open(self, error: SpecEdgeError, now_s: float) -> None:
        if (at_s := self._opening.retry_at_s(error, now_s)) is None:
            self._end("error", error)
        else:
            self._set_timer(at_s)

    def _on_opened(self, opened: Opened, now_s: float) -> None:
        if (error := mismatch_of(opened, self._params)) is not None:
            self._end("error", error)
            return
        identity = opened.identity
        told = {"model": identity.model, "weights": identity.weights}
        self._params = self._params.model_copy(update=told)
        self._log = TokenLog(self._params, self._prompt)
        self._opened, self._verifier = opened, opened.at
        self._advanced_s = now_s
        self._state = EdgeState.DRAFTING
        self._set_timer(None)
        self._send_context()
        self._ask_draft()

    # ------------------------------------------------------------ saying a round

    def _ask_draft(self) -> None:
        if self._ask_base is None:
            assert self._opened is not None
            self._ask_base = len(self._log)
            self._out.append(AskDraft(self.round, self._opened.limits.nodes, self._ask_base))

    def _on_switch_asked(self) -> None:
        if self._state is EdgeState.HOSTED:
            self._ask_draft()

    def _on_drafted(self, event: Drafted, now_s: float) -> None:
        if self._ask_base is None or self._opened is None:
            raise ProtocolViolation("a draft that nobody asked for")
        limits = self._opened.limits
        if event.run < 0 or (event.run > 0 and limits.grant == 0):
            raise ProtocolViolation("a grant where hosted sessions are not offered")
        base = self._ask_base if event.base is None else event.base
        self._current.tree = None if event.run else self._carry_over(event.tree, base)
        self._current.run = min(event.run, limits.grant)
        self._ask_base = None
        self._state = EdgeState.HOSTED if event.run else EdgeState.AWAITING
        self._say(now_s)

    def _on_drafted_ahead(self, event: DraftedAhead) -> None:
        """Pass on what would be of use to whoever runs the round that is out."""
        is_out = self._state is EdgeState.AWAITING and event.base == len(self._log)
        if not is_out or self._current.sent_ahead is not None:
            self.counters["stale_ahead"] += 1
            return
        assert self._opened is not None
        if (most := self._opened.limits.ahead) > 0:
            ahead = self._current.say_ahead(self._log, event.tree, event.nodes, most)
            self._out.append(SendUp(Up.AHEAD, encode(ahead)))

    def _carry_over(self, tree: TokenTree, base: int) -> TokenTree:
        """The part of a tree drafted at ``base`` that still stands on today's root."""
        if not 1 <= base <= len(self._log) or tree.token[0] != self._log.view(base - 1)[0]:
            raise ProtocolViolation("a draft on a root that this session never had")
        since = self._log.view(base).tolist()
        return reroot(tree, since)[1] if since else tree

    def _say(self, now_s: float, *, is_repeat: bool = False) -> None:
        """Send the round, or the grant from where we stand now, as a new try."""
        assert self._opened is not None
        if not self._current.sent_s:
            self._advanced_s = now_s
        max_nodes, wait_s = self._opened.limits.nodes, self._timer.wait_s
        draft = self._current.say(self._log, self._verifier, max_nodes, wait_s, now_s, is_repeat)
        self._heard_s = now_s
        self._out.append(SendUp(Up.DRAFT, encode(draft)))
        self._wait(now_s)

    def _send_context(self) -> None:
        for chunk in context_chunks(self._log, self._params, self.round):
            self._out.append(SendUp(Up.CONTEXT, chunk))

    # ------------------------------------------------------------ answers

    def _on_answer(self, message: DownMessage, now_s: float) -> None:
        if self._opened is None:
            self.counters["before_open"] += 1
            return
        match message:
            case Verdict():
                self._on_verdict(message, now_s)
            case Rejected():
                self._on_rejected(message, now_s)
            case Progress():
                self._on_progress(message, now_s)
            case Cold():
                if self._is_current(message):
                    self._resync(now_s)
                else:
                    self.counters["stale_cold"] += 1

    def _is_current(self, message: Cold | Rejected) -> bool:
        """Whether it answers exactly what is out now."""
        named = (message.round, message.try_)
        return self._state in _RUNNING and named == (self.round, self._current.try_)

    def _on_verdict(self, verdict: Verdict, now_s: float) -> None:
        if verdict.round != self.round:
            self._on_other_round(verdict, now_s)
            return
        tokens = (*verdict.path, verdict.bonus)
        if not self._is_consistent(verdict, tokens):
            self._on_mismatch(verdict, now_s)
            return
        was_tree = self._state is EdgeState.AWAITING and self._current.has_tried(verdict)
        sent_s = self._current.sent_s.get(verdict.try_)
        self._timer.observe(now_s - (self._heard_s if sent_s is None else sent_s))
        was_sent = was_tree and not (self._current.is_ahead and verdict.try_ == 0)
        round_trip_s = now_s - sent_s if was_sent and sent_s is not None else None
        next_tree = self._current.next_tree(verdict)
        self._log.extend(tokens)
        self._verifier = verdict.at or self._verifier
        self._out.append(Committed(tokens, was_tree, verdict, round_trip_s, next_tree))
        if verdict.final is not None:
            self._end(verdict.final)
        elif next_tree is not None:
            self._follow(next_tree, now_s)
        else:
            self._begin_round(now_s)

    def _is_consistent(self, verdict: Verdict, tokens: tuple[int, ...]) -> bool:
        """Whether the verdict continues our own prefix, in our own vocabulary."""
        assert self._opened is not None
        return (
            verdict.base == len(self._log) + len(tokens)
            and max(tokens) < self._opened.identity.vocab_size
            and verdict.hash == self._log.hash_after(tokens)
        )

    def _follow(self, tree: TokenTree, now_s: float) -> None:
        """The verifier tries the next round already: it is out, though it was never sent."""
        self.counters["followed"] += 1
        self._current.follow(tree, now_s)
        self._note_advance(now_s)
        self._wait(now_s)

    def _note_advance(self, now_s: float) -> None:
        self._timer.reset()
        self._heard_s = self._advanced_s = now_s
        self._no_verifier_since_s = None

    def _begin_round(self, now_s: float) -> None:
        self._current.advance()
        self._note_advance(now_s)
        left = self._current.grant_end - len(self._log)
        if self._state is EdgeState.HOSTED and left > 0:
            self._wait(now_s)
            if 2 * left <= self._current.run:
                self._ask_draft()
            return
        self._state = EdgeState.DRAFTING
        self._set_timer(None)
        self._ask_draft()

    def _on_other_round(self, verdict: Verdict, now_s: float) -> None:
        """Older: a duplicate. Newer: while a grant runs, the one between was lost; asked for once,
        since those behind it are on their way too."""
        if verdict.round < self.round:
            self.counters["stale_verdict"] += 1
        elif self._state is EdgeState.HOSTED and not self._current.has_asked_for_gap:
            self.counters["gaps"] += 1
            self._current.has_asked_for_gap = True
            self._say(now_s, is_repeat=True)
        else:
            self.counters["newer_verdict"] += 1

    def _on_mismatch(self, verdict: Verdict, now_s: float) -> None:
        """The verifier holds another prefix. Only an answer to what is out now is worth a resync:
        others are left over from a verifier that the session has left."""
        self.counters["mismatched_verdict"] += 1
        if self._state in _RUNNING and verdict.try_ == max(self._current.try_, 0):
            self._resync(now_s)

    def _resync(self, now_s: float) -> None:
        self.counters["resyncs"] += 1
        self._send_context()
        self._say(now_s, is_repeat=True)

    def _on_progress(self, progress: Progress, now_s: float) -> None:
        if self._state not in _RUNNING or progress.round != self.round:
            self.counters["stale_progress"] += 1
            return
        self._verifier = progress.at or self._verifier
        self._no_verifier_since_s = None
        if progress.progress != self._progress:
            self._progress = progress.progress
            self._advanced_s = now_s
        self._wait(now_s)

    def _on_rejected(self, rejected: Rejected, now_s: float) -> None:
        if rejected.round != self.round:
            self.counters["stale_rejected"] += 1
        elif rejected.rejected not in RETRYABLE_REASONS:
            self._end("error", error_of(rejected, self._params.tokenizer))
        elif not self._is_current(rejected):
            self.counters["stale_rejected"] += 1
        elif rejected.rejected is Reason.EXPIRED:
            self.counters["expired"] += 1
            self._timer.double()
            self._say(now_s, is_repeat=True)
        else:
            self._back_off(rejected, now_s)

    def _back_off(self, rejected: Rejected, now_s: float) -> None:
        self.counters[f"rejected_{rejected.rejected}"] += 1
        retry_ms = rejected.retry_ms
        pause_s = self._config.retry_s if retry_ms is None else retry_ms / 1e3
        if rejected.rejected is Reason.NO_VERIFIER:
            if self._no_verifier_since_s is None:
                self._no_verifier_since_s = now_s
            if now_s + pause_s > self._no_verifier_since_s + self._config.no_verifier_s:
                self._end("error", error_of(rejected, self._params.tokenizer))
                return
        else:
            self._no_verifier_since_s = None
        self._is_backing_off = True
        self._set_timer(min(now_s + pause_s, self._advanced_s + self._config.give_up_s))

    # ------------------------------------------------------------ time, link, end

    def _wait(self, now_s: float) -> None:
        self._is_backing_off = False
        give_up_at_s = self._advanced_s + self._config.give_up_s
        self._set_timer(min(now_s + self._timer.wait_s, give_up_at_s))

    def _set_timer(self, at_s: float | None) -> None:
        if at_s != self._timer_at_s:
            self._timer_at_s = at_s
            self._out.append(SetTimer(at_s))

    def _on_timer(self, now_s: float) -> None:
        at_s, self._timer_at_s = self._timer_at_s, None
        if at_s is None:
            return
        if not is_up(at_s, now_s):
            self._set_timer(at_s)  # early: the driver's timer may be spent, so ask for it again
        elif self._state is EdgeState.OPENING:
            self._request_open(now_s)
        elif is_up(self._advanced_s + self._config.give_up_s, now_s):
            message = f"no answer from the cloud for {self._config.give_up_s:g} s"
            self._end("error", RetryableError(message))
        else:
            if not self._is_backing_off:
                self.counters["resends"] += 1
                self._timer.double()
            self._say(now_s, is_repeat=True)

    def _on_link_restored(self, now_s: float) -> None:
        if self._state is EdgeState.OPENING and not self._opening.is_out:
            self._request_open(now_s)
        elif self._state in _RUNNING:
            self._timer.reset()
            self._say(now_s, is_repeat=True)

    def _end(self, reason: str, error: SpecEdgeError | None = None) -> None:
        self._set_timer(None)
        if self._state is not EdgeState.NEW:
            kind = Up.CANCEL if reason == "cancelled" else Up.CLOSE
            self._out.append(SendUp(kind, encode(Ending(round=self.round))))
        self._state = EdgeState.ENDED
        self._ask_base = None
        self._out.append(Ended(reason, error))
