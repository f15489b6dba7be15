"""Answers one request: its choices side by side, as one stream of events.

Owns the task group of a request. Knows nothing of HTTP, JSON or NATS.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from specedge.errors import Busy, InvalidRequest, RetryableError, SpecEdgeError
from specedge.protocol.effects import Committed, Ended
from specedge.protocol.messages import TokenLogprobs
from specedge.protocol.opening import Opened
from specedge.service.runtime import Tasks
from specedge_edge.account import MS_PER_S, Account
from specedge_edge.answer_events import Admitted, AnswerEvent, Broke, Events, Finished, Piece
from specedge_edge.generation import Generation, Upstream
from specedge_edge.metrics import EdgeMetrics
from specedge_edge.plan import ChoicePlan
from specedge_edge.streaming_text import AnswerText
from specedge_edge.text import TextCodec

T = TypeVar("T")

# Events a reader may lag behind; then the sessions of its request wait for it, and no other's.
MAX_UNREAD: Final = 64
CLOSING: Final = "this edge is shutting down"

_log = structlog.get_logger("specedge.edge")


class ChoiceWriter:
    """Listens to one generation and puts its choice's events into the request's queue."""

    def __init__(
        self, plan: ChoicePlan, codec: TextCodec, queue: "asyncio.Queue[AnswerEvent]"
    ) -> None:
        self._plan = plan
        self._queue = queue
        self._text = AnswerText(
            codec,
            stops=plan.stops,
            include_stop=plan.include_stop,
            skip_special_tokens=plan.skip_special_tokens,
            stop_token_ids=plan.end_ids,
            min_tokens=plan.params.min_tokens,
        )
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._last_token: int | None = None
        self.num_tokens = 0

    async def on_admitted(self, opened: Opened) -> None:
        """See ``Listener``."""
        await self._queue.put(Admitted(self._plan.index, opened.identity.weights))

    async def on_committed(self, committed: Committed) -> bool:
        """See ``Listener``. Tokens after the one that completed a stop string never were."""
        shown = self._text.push(committed.tokens)
        tokens = committed.tokens[: shown.num_tokens]
        self._last_token = tokens[-1]
        self.num_tokens += len(tokens)
        self._tokens.extend(tokens)
        if committed.verdict.lp is not None:
            self._logprobs.extend(committed.verdict.lp[: len(tokens)])
        if shown.text:
            await self._queue.put(self._take_piece(shown.text))
        return shown.stopped_by is None

    def end(self, ended: Ended, account: Account) -> Finished | Broke:
        """The choice's last event."""
        if ended.error is not None:
            return Broke(self._plan.index, ended.error, account)
        if ended.reason == "cancelled":
            return Broke(self._plan.index, RetryableError(CLOSING), account)
        rest = self._take_piece(self._text.flush())
        own = self._last_token if self._last_token in self._plan.own_stop_ids else None
        string = self._text.stopped_by
        stopped_by = own if string is None else string
        is_length = ended.reason == "length" and string is None
        return Finished(
            self._plan.index, "length" if is_length else "stop", stopped_by, rest, account
        )

    def _take_piece(self, text: str) -> Piece:
        logprobs = tuple(self._logprobs) if self._plan.params.logprobs >= 0 else None
        piece = Piece(self._plan.index, text, tuple(self._tokens), logprobs)
        self._tokens.clear()
        self._logprobs.clear()
        return piece


class AnswerDesk:
    """Takes requests up to ``max_choices`` choices at a time. One per service, on its loop."""

    def __init__(
        self, upstream: Upstream, codec: TextCodec, metrics: EdgeMetrics, *, max_choices: int
    ) -> None:
        self._upstream = upstream
        self._codec = codec
        self._metrics = metrics
        self._max_choices = max_choices
        self._running: set[Generation] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False
        self.num_running = 0

    async def answer(
        self, plans: Sequence[ChoicePlan], consume: Callable[[Events], Awaitable[T]]
    ) -> T:
        """Generate all ``plans`` beside one another while ``consume`` reads their events: for each
        choice Admitted, pieces, then Finished or Broke.

        When ``consume`` returns, or this is cancelled, what still runs is cancelled and its slots
        are freed before this returns. Raises InvalidRequest for more choices than ever run at a
        time, Busy when too many run already, and RetryableError once the desk is closing.
        """
        if self._is_closed:
            raise RetryableError(CLOSING)
        if len(plans) > self._max_choices:
            raise InvalidRequest(
                f"{len(plans)} choices are too many: this edge runs {self._max_choices} at a time",
                field="n",
            )
        if self.num_running + len(plans) > self._max_choices:
            raise Busy(f"this edge runs {self.num_running} of {self._max_choices} choices already")
        queue: asyncio.Queue[AnswerEvent] = asyncio.Queue(MAX_UNREAD)
        self.num_running += len(plans)
        self._idle.clear()
        self._metrics.on_started(len(plans))
        try:
            async with Tasks() as tasks:
                for plan in plans:
                    tasks.start(self._write(plan, queue), name=f"choice-{plan.index}")
                return await consume(Events(queue, len(plans)))
        finally:
            self.num_running -= len(plans)
            self._metrics.on_ended(len(plans))
            if not self.num_running:
                self._idle.set()

    async def close(self, limit_s: float) -> None:
        """Take nothing new, let what runs end for ``limit_s``, and break off the rest, each with an
        error that its client sees."""
        self._is_closed = True
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            for generation in self._running:
                generation.stop()

    async def _write(self, plan: ChoicePlan, queue: "asyncio.Queue[AnswerEvent]") -> None:
        writer = ChoiceWriter(plan, self._codec, queue)
        generation = Generation(self._upstream, plan.prompt, plan.params, writer)
        self._running.add(generation)
        end: Finished | Broke | None = None
        try:
            end = writer.end(await generation.run(), generation.account)
        except Exception as error:  # noqa: BLE001, RUF100 - the root of a choice
            if not isinstance(error, SpecEdgeError):
                _log.exception("generation_failed")
            end = Broke(plan.index, error, generation.account)
        finally:
            self._running.discard(generation)
            generation.account.num_tokens = writer.num_tokens
            self._report(end, plan, generation.account)
        await queue.put(end)

    def _report(self, end: Finished | Broke | None, plan: ChoicePlan, account: Account) -> None:
        reason = _reason(end)
        self._metrics.on_finished(reason, len(plan.prompt), account)
        _log.info(
            "choice_ended",
            reason=reason,
            error=str(end.error) if isinstance(end, Broke) else None,
            prompt_tokens=len(plan.prompt),
            tokens=account.num_tokens,
            rounds=account.rounds,
            accepted=account.num_accepted,
            took_ms=round(MS_PER_S * account.generation_s, 1),
            verifier=account.verifier_id,
        )


def _reason(end: Finished | Broke | None) -> str:
    """For metrics; None: cancelled."""
    match end:
        case Finished():
            return end.reason
        case Broke():
            return "error"
        case None:
            return "abort"
