"""Answers as ASGI responses: whole or streamed, both ended by the client's going away.

A client that disconnects cancels the work at once, whether it streams or not; the work frees what
it holds before the response is over. Nothing is sent before all choices have their places, or one
has something to show, so that what fails until then has an HTTP status of its own.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from specedge.service.runtime import Tasks
from specedge_edge.account import Account, merge
from specedge_edge.answer_events import Admitted, AnswerEvent, Broke, Events, Finished, Piece
from specedge_edge.answering import AnswerDesk
from specedge_edge.openai import sse
from specedge_edge.openai.errors import INTERNAL, ApiError, from_exception, from_session
from specedge_edge.openai.rendering import Json, Rendering
from specedge_edge.plan import ChoicePlan

KEEP_ALIVE_S: Final = 15.0

_log = structlog.get_logger("specedge.edge")


@dataclass(frozen=True, slots=True)
class Order:
    """One request, ready to be answered."""

    plans: Sequence[ChoicePlan]
    rendering: Rendering
    desk: AnswerDesk
    wants_usage: bool = False
    wants_usage_in_every_chunk: bool = False
    keep_alive_s: float = KEEP_ALIVE_S


class AnswerResponse(Response, ABC):
    """What both kinds share: the race against the client's leaving, and the accounts."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._order = order
        self._accounts: dict[int, Account] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Returns when everything that the answer held is free again."""

        async def work() -> None:
            try:
                await self._order.desk.answer(
                    self._order.plans, lambda events: self._consume(events, send)
                )
            except Exception as error:  # noqa: BLE001, RUF100 - the root of a request
                await self._fail(error, send)

        await run_until_disconnect(receive, work)

    @abstractmethod
    async def _consume(self, events: Events, send: Send) -> None:
        """Say what happens. Returns with the last event."""

    @abstractmethod
    async def _fail(self, error: Exception, send: Send) -> None:
        """Say that nothing more comes, and why."""

    def _note(self, event: AnswerEvent) -> None:
        match event:
            case Admitted():
                self._order.rendering.note_admitted(event)
            case Finished():
                self._accounts[event.index] = event.account

    @property
    def _account(self) -> Account:
        return merge(list(self._accounts.values()))


class WholeAnswer(AnswerResponse):
    """One JSON body at the end."""

    async def _consume(self, events: Events, send: Send) -> None:
        pieces = {plan.index: Piece(plan.index, "", ()) for plan in self._order.plans}
        ends: dict[int, Finished] = {}
        async for event in events:
            self._note(event)
            match event:
                case Piece():
                    pieces[event.index] = _joined(pieces[event.index], event)
                case Finished():
                    pieces[event.index] = _joined(pieces[event.index], event.rest)
                    ends[event.index] = event
                case Broke():
                    await _send_error(send, from_session(event.error))
                    return
                case Admitted():
                    pass
        await _send_json(send, self._order.rendering.whole(pieces, ends, self._account))

    async def _fail(self, error: Exception, send: Send) -> None:
        await _send_error(send, _told(error))


class StreamedAnswer(AnswerResponse):
    """Server-sent events: who speaks, pieces, the reason for the end, usage, and ``[DONE]``."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._num_tokens = 0
        self._num_admitted = 0
        self._has_begun = False

    async def _consume(self, events: Events, send: Send) -> None:
        while (event := await self._next(events, send)) is not None:
            self._note(event)
            if isinstance(event, Broke):
                await self._break_off(from_session(event.error), send)
                return
            if not self._has_begun and self._may_begin(event):
                await self._begin(send)
            for chunk in self._chunks(event):
                await self._send_chunk(chunk, send)
        if self._order.wants_usage:
            await _send_part(send, sse.event(self._order.rendering.usage_chunk(self._account)))
        await _send_part(send, sse.DONE, is_last=True)

    async def _fail(self, error: Exception, send: Send) -> None:
        await self._break_off(_told(error), send)

    async def _next(self, events: Events, send: Send) -> AnswerEvent | None:
        """The next event; comments while there is none. None at the end."""
        while True:
            try:
                async with asyncio.timeout(self._order.keep_alive_s):
                    return await anext(events, None)
            except TimeoutError:
                if self._has_begun:
                    await _send_part(send, sse.KEEP_ALIVE)

    def _may_begin(self, event: AnswerEvent) -> bool:
        """Whether all choices have a place, or there is something to show: until then a refusal has
        a status of its own, which clients know to try again upon."""
        self._num_admitted += isinstance(event, Admitted)
        return not isinstance(event, Admitted) or self._num_admitted == len(self._order.plans)

    async def _begin(self, send: Send) -> None:
        self._has_begun = True
        headers = [(k.lower().encode(), v.encode()) for k, v in sse.HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for plan in self._order.plans:
            if (chunk := self._order.rendering.opening(plan)) is not None:
                await self._send_chunk(chunk, send)

    def _chunks(self, event: AnswerEvent) -> list[Json]:
        match event:
            case Piece():
                self._num_tokens += len(event.tokens)
                return [self._order.rendering.chunk(event)]
            case Finished():
                self._num_tokens += len(event.rest.tokens)
                return self._order.rendering.last_chunks(event)
        return []

    async def _send_chunk(self, chunk: Json, send: Send) -> None:
        if self._order.wants_usage_in_every_chunk:
            chunk["usage"] = self._order.rendering.usage(self._num_tokens)
        elif self._order.wants_usage:
            chunk["usage"] = None
        await _send_part(send, sse.event(chunk))

    async def _break_off(self, error: ApiError, send: Send) -> None:
        """An error: with a status of its own if nothing was sent yet, else as the last event."""
        if not self._has_begun:
            await _send_error(send, error)
            return
        await _send_part(send, sse.event(error.body()))
        await _send_part(send, sse.DONE, is_last=True)


async def run_until_disconnect(receive: Receive, work: Callable[[], Awaitable[None]]) -> bool:
    """Run ``work`` to its end, or cancel it when the client goes away; whether it was cancelled."""

    async def working() -> None:
        await work()

    async with Tasks() as tasks:
        worker = tasks.start(working(), name="answer")
        watcher = tasks.start(_disconnected(receive), name="disconnect-watch")
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        return not worker.done()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _told(error: Exception) -> ApiError:
    told = from_exception(error)
    if told is INTERNAL:
        _log.error("request_failed", exc_info=error)
    return told


def _joined(first: Piece, second: Piece) -> Piece:
    logprobs = second.logprobs
    if first.logprobs is not None and logprobs is not None:
        logprobs = first.logprobs + logprobs
    return replace(
        first,
        text=first.text + second.text,
        tokens=first.tokens + second.tokens,
        logprobs=logprobs,
    )


async def _send_error(send: Send, error: ApiError) -> None:
    await _send_json(send, error.body(), error.status, error.headers())


async def _send_json(
    send: Send, body: Json, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    content = sse.json_bytes(body)
    fields: dict[str, Any] = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        **{name.lower(): value for name, value in (headers or {}).items()},
    }
    raw = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def _send_part(send: Send, body: bytes, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
