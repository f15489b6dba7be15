"""Drives one generation: performs what the session's state machine asks for, and tells a listener
which tokens are certain.

The machine decides everything about the protocol; this file only carries: messages to the link,
timers to the clock, drafts from the compute thread. Knows nothing of text or HTTP.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from specedge.clock import Cancellable, Timers
from specedge.drafting.counts import DraftCounts
from specedge.ids import EdgeId, SessionKey
from specedge.link.base import Link
from specedge.protocol.edge_session import EdgeSession
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
    RequestOpen,
    SendUp,
    SetTimer,
    Started,
)
from specedge.protocol.messages import SessionParams
from specedge.protocol.opening import Opened
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from specedge.service.spans import NO_SPANS, SpanRing
from specedge.tree.token_tree import IntArray
from specedge_edge.account import MS_PER_S, Account
from specedge_edge.drafting import DraftSource
from specedge_edge.round_spans import RoundSpans
from specedge_edge.router import TIMER_DUE, Arrival, Inbox, SessionRouter
from specedge_edge.served import ServedModel, new_session_id
from specedge_edge.session_uplink import SessionUplink


@dataclass(frozen=True, slots=True)
class Upstream:
    """What every generation of a service shares."""

    edge: EdgeId
    link: Link
    router: SessionRouter
    timers: Timers
    served: ServedModel
    drafts: DraftSource
    config: EdgeSessionConfig
    spans: SpanRing = NO_SPANS


class Listener(Protocol):
    """Whoever wants the tokens. Called by the generation's task; waiting in it holds the session
    back, which is how a slow reader slows its own session and no other."""

    async def on_admitted(self, opened: Opened) -> None:
        """The session has a place at a verifier. Once, before any token."""
        ...

    async def on_committed(self, committed: Committed) -> bool:
        """More tokens are certain. False: that is enough, end the session."""
        ...


class Generation:
    """One session, from its opening to its end. Made and run once, by one task.

    ``account`` is filled while it runs.
    """

    def __init__(
        self, upstream: Upstream, prompt: IntArray, params: SessionParams, listener: Listener
    ) -> None:
        self._up = upstream
        self._listener = listener
        self._key = SessionKey(upstream.edge, new_session_id())
        config = replace(upstream.config, round_trip_s=upstream.served.round_trip_s)
        self._session = EdgeSession(params, prompt, config, drafter=upstream.drafts.name)
        self._root = int(prompt[-1])
        self._inbox = Inbox(upstream.timers)
        self._proposer = upstream.drafts.open(
            prompt, params.sampling(), params.stop_rule(), self._on_ahead
        )
        self._timer: Cancellable | None = None
        self._ended: Ended | None = None
        self._undone: deque[EdgeEffect] = deque()  # what the machine asked for last
        self._is_admitted = False
        self._is_enough = False
        self._is_put_off = False  # a draft that was asked for
        self._num_drafts = 0  # rounds drafted; what was sent beyond them was said again
        self._num_sends = 0
        self._unsent: Drafted | None = None  # what was drafted and has not left yet
        self._begun_s = 0.0  # when its drafting began
        self._verdict_s: float | None = None  # when the verdict that it follows upon arrived
        self.account = Account(
            started_s=upstream.timers.now_s(), num_spec_tokens=upstream.drafts.depth
        )
        self._uplink = SessionUplink(upstream.link, self._key, self.account)
        lane = f"{upstream.edge[:8]} {self._key.session[:4]}"
        self._spans = RoundSpans(upstream.spans, lane, upstream.timers)

    async def run(self) -> Ended:
        """Drive the session to its end, and say how it ended; its errors are in there.

        Cancelled by whoever runs it, when the client goes away or the service stops: it then tells
        the cloud, which frees the slot, and leaves nothing behind.
        """
        try:
            with self._up.router.attached(self._key.session, self._inbox):
                await self._handle(Started())
                while self._ended is None:
                    arrival, came_s = await self._inbox.get()
                    self._verdict_s = came_s if isinstance(arrival.event, Answered) else None
                    self.account.bytes_down += arrival.num_bytes
                    await self._handle(arrival.event)
        finally:
            await self._release()
        self._up.served.round_trip_s = self._session.round_trip_s
        return self._ended

    @property
    def drafting(self) -> DraftCounts:
        """What drafting did so far."""
        return self._proposer.figures.counts

    def stop(self) -> None:
        """End it from outside, as ``cancelled``, as soon as what it does just now is done."""
        self._inbox.try_put(Arrival(CancelAsked()))

    async def _handle(self, event: EdgeEvent) -> None:
        """One event and all that follow from it at once."""
        events = deque([event])
        while self._ended is None and (events or self._is_draft_due()):
            if not events:
                events.append(await self._draft_late())
            effects = self._session.on(events.popleft(), self._up.timers.now_s())
            self._undone = deque(effects)
            self._begin_at_once(effects)
            await self._tell_admission()
            while self._undone:
                if (follows := await self._perform(self._undone[0])) is not None:
                    events.append(follows)
                self._undone.popleft()

    def _is_draft_due(self) -> bool:
        """One was put off, and there is nothing to put it off for any more."""
        return self._is_put_off and not self._is_enough and not self._inbox.has_answers

    async def _draft_late(self) -> EdgeEvent:
        """What was put off, on what is certain by now."""
        self._is_put_off = False
        self._begin_draft()
        return replace(await self._draft(), base=self._session.base)

    def _begin_at_once(self, effects: Sequence[EdgeEffect]) -> None:
        """What must not wait for the listener: the next draft, on what is certain now. Everything
        else is performed in order."""
        for effect in effects:
            match effect:
                case Committed():
                    self._root = effect.tokens[-1]
                    self._spans.verdict(effect)
                    self.account.on_committed(effect, self._up.timers.now_s())
                    self._proposer.on_committed(effect)
                case AskDraft():
                    # A grant that runs on has said more already: a draft on what came before that
                    # would be of no use, and what was said would wait for it.
                    self._is_put_off = self._inbox.has_answers
                    if not self._is_put_off:
                        self._begin_draft()

    def _begin_draft(self) -> None:
        assert self._session.limits is not None
        self._begun_s = self._up.timers.now_s()
        self._proposer.begin(self._root, self._session.limits)

    async def _perform(self, effect: EdgeEffect) -> EdgeEvent | None:
        """Do it; the event that answers it, if one does."""
        match effect:
            case RequestOpen():
                return await self._uplink.open(effect)
            case SendUp():
                await self._send(effect)
            case SetTimer():
                self._set_timer(effect.at_s)
            case AskDraft():
                return None if self._is_enough or self._is_put_off else await self._draft()
            case Committed():
                return await self._commit(effect)
            case Ended():
                self._ended = effect
        return None

    async def _tell_admission(self) -> None:
        if not self._is_admitted and self._session.opened is not None:
            self._is_admitted = True
            self._up.served.learn(self._session.opened)
            await self._listener.on_admitted(self._session.opened)

    async def _send(self, effect: SendUp) -> None:
        await self._uplink.send(effect, self._session.group)
        if effect.kind is Up.DRAFT:
            self._num_sends += 1
            self._on_draft_sent()

    def _on_ahead(self, drafted: DraftedAhead) -> None:
        self._inbox.try_put(Arrival(drafted))  # a full inbox: there are other things to do

    def _on_draft_sent(self) -> None:
        if self._unsent is None:
            return  # the same round again
        if self._unsent.run == 0 and self._verdict_s is not None:
            now_s = self._up.timers.now_s()
            self.account.reply_ms.append((now_s - self._verdict_s) * MS_PER_S)
        self._spans.draft(self._unsent, self._begun_s)
        self._unsent = None
        self._proposer.on_sent()

    async def _draft(self) -> Drafted:
        self._unsent = await self._proposer.drafted()
        self._num_drafts += 1
        self.account.draft_ms += (self._up.timers.now_s() - self._begun_s) * MS_PER_S
        return self._unsent

    async def _commit(self, committed: Committed) -> EdgeEvent | None:
        if await self._listener.on_committed(committed):
            return None
        self._is_enough = True
        return CloseAsked()

    def _set_timer(self, at_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_s is not None:
            self._timer = self._up.timers.call_at(at_s, self._ring)

    def _ring(self) -> None:
        self._inbox.try_put(TIMER_DUE)  # a full inbox wakes the session just as well

    async def _release(self) -> None:
        """Tell the cloud, if it does not know yet, and free what is held here."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._ended is None:
                # A machine that has ended asks for nothing more; what it asked for may not be done.
                ends = self._session.on(CancelAsked(), self._up.timers.now_s()) or self._undone
                for effect in list(ends):
                    if isinstance(effect, SendUp):
                        await self._send(effect)
        finally:
            self.account.retries = max(0, self._num_sends - self._num_drafts)
            self.account.resyncs = self._session.counters["resyncs"]
            await self._proposer.close()
            self.account.on_drafting_over(self._proposer.figures)
