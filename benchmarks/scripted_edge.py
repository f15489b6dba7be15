"""An edge by script: one session after the other, a draft once the last one's verdict is there and
the time that a real edge would take has passed. It drafts nothing; its drafts have full size.
"""

import asyncio
import random
import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.scripted_verifier import MODEL
from specedge.ids import EdgeId, SessionId, SessionKey
from specedge.link.base import Link, Message
from specedge.protocol import subjects
from specedge.protocol.codec import decode_open_reply, encode, encode_context
from specedge.protocol.messages import BatchItem, ContextHeader, Draft, Ending, SessionParams
from specedge.protocol.opening import Opened, OpenRequest

PROMPT_TOKENS: Final = 128
ACCEPTED: Final = 3  # tokens of each verdict's path
ANSWER_WITHIN_S: Final = 2.0
REST_S: Final = 0.1
HASH: Final = "0123456789abcdef"
PARAMS: Final = SessionParams(
    model=MODEL.model,
    weights=MODEL.weights,
    tokenizer=MODEL.tokenizer,
    prompt=PROMPT_TOKENS,
    max_tokens=8192,
)


@dataclass(frozen=True, slots=True)
class Script:
    """What all edges do.

    away_s   from a step's end until the next draft, drawn evenly from this range
    nodes    of each draft
    rounds   of a session, before the next one begins
    """

    away_s: tuple[float, float]
    nodes: int
    rounds: int


@dataclass(slots=True)
class Tally:
    """Of all edges together. ``said_again``: rounds that were rejected, or not answered in time."""

    rounds: int = 0
    sessions: int = 0
    refused: int = 0
    said_again: int = 0


class ScriptedEdge:
    """One edge. ``run`` plays until cancelled; ``answer`` is the verdict of its round."""

    def __init__(self, edge: EdgeId, link: Link, script: Script, tally: Tally) -> None:
        self._edge = edge
        self._link = link
        self._script = script
        self._tally = tally
        self._random = random.Random(edge)
        self._key = SessionKey(edge, SessionId(""))
        self._round = 0
        self._is_answered = asyncio.Event()

    async def start(self) -> None:
        """Listen for rejections."""
        await self._link.subscribe(subjects.down_all_sessions(self._edge), self._on_down)

    def answer(self, item: BatchItem) -> None:
        """The step with this round ended."""
        if item.s == self._key.session and item.round == self._round:
            self._is_answered.set()

    async def run(self) -> None:
        """One session after the other."""
        await asyncio.sleep(self._away_s())
        while True:
            self._key = SessionKey(self._edge, SessionId(secrets.token_hex(16)))
            if isinstance(await self._open(), Opened):
                await self._play()
                self._tally.sessions += 1
            else:
                self._tally.refused += 1
                await asyncio.sleep(REST_S)

    async def _open(self) -> object:
        ask = OpenRequest(model=MODEL.model, tokenizer=MODEL.tokenizer, context=16_384)
        subject = subjects.up_open(self._key)
        reply = await self._link.request(subject, encode(ask), timeout_s=ANSWER_WITHIN_S)
        return decode_open_reply(reply)

    async def _play(self) -> None:
        ids = np.arange(PROMPT_TOKENS, dtype=np.int32)
        total = len(ids)
        header = ContextHeader(round=0, off=0, total=total, hash=HASH, params=PARAMS)
        target = str(subjects.DEFAULT_GROUP)
        subject = subjects.up_context(self._key, target)
        await self._link.publish(subject, encode_context(header, ids))
        subject = subjects.up_draft(self._key, target)
        for number in range(self._script.rounds):
            self._round = number
            await self._say(subject, PROMPT_TOKENS + number * (ACCEPTED + 1))
            self._tally.rounds += 1
            await asyncio.sleep(self._away_s())
        await self._link.publish(subjects.up_close(self._key), encode(Ending(round=self._round)))

    async def _say(self, subject: str, base: int) -> None:
        """A round, until it is answered."""
        draft = self._draft(base)
        self._is_answered.clear()
        for try_ in range(100):
            await self._link.publish(subject, encode(draft.model_copy(update={"try_": try_})))
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    await self._is_answered.wait()
            except TimeoutError:
                self._tally.said_again += 1
            else:
                return

    def _draft(self, base: int) -> Draft:
        nodes = self._script.nodes
        return Draft.model_construct(
            round=self._round,
            base=base,
            hash=HASH,
            append=(),
            token=tuple(self._random.randrange(MODEL.vocab_size) for _ in range(nodes)),
            parent=tuple(max(-1, node - 1 - node % 3) for node in range(nodes)),
            budget_ms=int(2000 * ANSWER_WITHIN_S),
        )

    def _away_s(self) -> float:
        return self._random.uniform(*self._script.away_s)

    def _on_down(self, _: Message) -> None:
        """A rejection: the round is said again when its time is over."""
