"""What happens while a request is answered, as values in one stream, whatever number of choices."""

import asyncio
from dataclasses import dataclass
from typing import Literal, Self

from specedge.protocol.messages import TokenLogprobs
from specedge_edge.account import Account

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A choice has its place: from here on an answer may begin. All of the choice is computed with
    the ``weights`` of that name."""

    index: int
    weights: str


@dataclass(frozen=True, slots=True)
class Piece:
    """More of one choice: whole characters, the tokens committed since its last piece, and their
    log-probabilities if they were asked for. Text and tokens need not begin and end together."""

    index: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice is complete, ``rest`` being its last piece (perhaps without text)."""

    index: int
    reason: FinishReason
    stopped_by: str | int | None
    rest: Piece
    account: Account


@dataclass(frozen=True, slots=True)
class Broke:
    """One choice failed; nothing of it follows."""

    index: int
    error: Exception
    account: Account


AnswerEvent = Admitted | Piece | Finished | Broke


class Events:
    """A request's events in the order of their coming, until every choice ended.

    Giving up a wait for the next one (a timeout, say) loses nothing.
    """

    def __init__(self, queue: "asyncio.Queue[AnswerEvent]", num_choices: int) -> None:
        self._queue = queue
        self._num_running = num_choices

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnswerEvent:
        if not self._num_running:
            raise StopAsyncIteration
        event = await self._queue.get()
        self._num_running -= isinstance(event, Finished | Broke)
        return event
