"""A cloud in a few lines: scheduler and verifier as one handler, with a script for every token.

For tests of the edge: it answers at once, and can be told to refuse, to fall silent or to break.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from specedge.ids import SessionKey
from specedge.link.base import Link, Message
from specedge.protocol.codec import decode, decode_context, encode
from specedge.protocol.messages import (
    Draft,
    Rejected,
    SessionParams,
    Timing,
    TokenLogprobs,
    Verdict,
)
from specedge.protocol.opening import Identity, Limits, Opened, OpenRequest, Reason, Refused
from specedge.protocol.subjects import ALL_UP, Up, down_session, parse_up
from specedge.protocol.token_log import TokenLog
from specedge.protocol.verdicts import decide
from specedge.protocol.wire_tree import from_wire
from specedge.tree.token_tree import TokenTree

Script = Callable[[Sequence[int], SessionParams], int]


@dataclass
class Session:
    """What the cloud holds of a session."""

    log: TokenLog
    params: SessionParams


@dataclass
class ScriptedCloud:
    """``script(prompt and generated tokens, params)`` is the target's next token.

    refusal     answer openings with this instead
    places      how many more openings are taken, None: all; a trial takes none
    rejection   answer drafts with this reason instead
    is_silent   take drafts and say nothing
    num_to_lose how many of the next drafts never arrive
    is_gone     take everything and say nothing
    """

    link: Link
    identity: Identity
    script: Script
    limits: Limits = field(
        default_factory=lambda: Limits(nodes=64, append=8192, context=4096, grant=64)
    )
    refusal: Refused | None = None
    places: int | None = None
    rejection: Reason | str | None = None
    is_silent: bool = False
    num_to_lose: int = 0
    is_gone: bool = False
    sessions: dict[SessionKey, Session] = field(default_factory=dict)
    admitted: list[SessionKey] = field(default_factory=list)
    ended: list[tuple[Up, SessionKey]] = field(default_factory=list)
    opened: list[OpenRequest] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    draft_payloads: list[bytes] = field(default_factory=list)
    _inbox: list[Message] = field(default_factory=list)

    async def run(self) -> None:
        """Answer until cancelled."""
        arrived = asyncio.Event()

        def on_message(message: Message) -> None:
            self._inbox.append(message)
            arrived.set()

        await self.link.subscribe(ALL_UP, on_message)
        self.is_up.set()
        while True:
            await arrived.wait()
            arrived.clear()
            while self._inbox:
                await self._answer(self._inbox.pop(0))

    def __post_init__(self) -> None:
        self.is_up = asyncio.Event()
        self.changed = asyncio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until what was received makes ``is_so`` true."""
        async with asyncio.timeout(30):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()

    def refuse(self, reason: str, message: str, retry_ms: int | None = None) -> None:
        """From now on every opening is refused."""
        self.refusal = Refused(refused=Reason(reason), message=message, retry_ms=retry_ms)

    async def _answer(self, message: Message) -> None:
        address = parse_up(message.subject)
        assert address is not None, message.subject
        if self.is_gone:
            return
        match address.kind:
            case Up.OPEN:
                await self._open(address.key, message)
            case Up.CONTEXT:
                self._take_context(address.key, message.payload)
            case Up.DRAFT:
                self.draft_payloads.append(message.payload)
                await self._verify(address.key, decode(Draft, message.payload))
            case Up.CANCEL | Up.CLOSE:
                self.sessions.pop(address.key, None)
                self.ended.append((address.kind, address.key))
        self.changed.set()

    async def _open(self, key: SessionKey, message: Message) -> None:
        request = decode(OpenRequest, message.payload)
        self.opened.append(request)
        if self.places == 0:
            self.refuse("busy", "the pool is full", retry_ms=500)
        elif self.places is not None and not request.trial:
            self.places -= 1
        if self.refusal is not None:
            await self.link.reply(message, encode(self.refusal))
        elif request.tokenizer != self.identity.tokenizer:
            refused = Refused(
                refused=Reason.FINGERPRINT,
                message="the tokenizers differ",
                field="tokenizer",
                ours=self.identity.tokenizer,
                theirs=request.tokenizer,
            )
            await self.link.reply(message, encode(refused))
        else:
            if not request.trial:
                self.admitted.append(key)
            opened = Opened(
                at="verifier-1", group="main", limits=self.limits, identity=self.identity
            )
            await self.link.reply(message, encode(opened))

    def _take_context(self, key: SessionKey, payload: bytes) -> None:
        header, ids = decode_context(payload, self.identity.vocab_size)
        if header.off == 0:
            self.sessions[key] = Session(TokenLog(header.params, ids.tolist()), header.params)
        else:
            self.sessions[key].log.extend(ids.tolist())

    async def _verify(self, key: SessionKey, draft: Draft) -> None:
        self.drafts.append(draft)
        if self.is_silent:
            return
        if self.num_to_lose:
            self.num_to_lose -= 1
            return
        if self.rejection is not None:
            rejected = Rejected(round=draft.round, try_=draft.try_, rejected=Reason(self.rejection))
            await self.link.publish(down_session(key), encode(rejected))
            return
        if draft.run == 0:
            await self._step(key, draft, draft.round)
            return
        base = len(self.sessions[key].log)
        number = draft.round
        while key in self.sessions and len(self.sessions[key].log) < base + draft.run:
            if await self._step(key, draft, number):
                break
            number += 1

    async def _step(self, key: SessionKey, draft: Draft, number: int) -> bool:
        session = self.sessions[key]
        log, params = session.log, session.params
        committed = log.view().tolist()
        tree = from_wire(committed[-1], draft if draft.run == 0 else _without_nodes(draft))
        choice = [
            self.script([*committed, *_path_to(tree, node)], params) for node in range(len(tree))
        ]
        outcome = decide(
            tree,
            np.array(choice, dtype=np.int32),
            _logprobs(len(tree), params.logprobs),
            params,
            len(log),
        )
        log.extend(outcome.tokens)
        verdict = Verdict(
            round=number,
            try_=draft.try_,
            at="verifier-1",
            path=outcome.tokens[:-1],
            bonus=outcome.tokens[-1],
            kept=tree.num_drafted,
            base=len(log),
            hash=log.hash_at(len(log)),
            final=outcome.final,
            lp=outcome.lp,
            timing=Timing(held=0.5, queue=0.25, step=0.125, rows=1 + tree.num_drafted),
        )
        await self.link.publish(down_session(key), encode(verdict))
        return outcome.final is not None


def _without_nodes(draft: Draft) -> Draft:
    return draft.model_copy(update={"token": (), "parent": ()})


def _path_to(tree: TokenTree, node: int) -> list[int]:
    path: list[int] = []
    while node > 0:
        path.append(int(tree.token[node]))
        node = int(tree.parent[node])
    return path[::-1]


def _logprobs(num_nodes: int, wanted: int) -> tuple[TokenLogprobs, ...] | None:
    if wanted < 0:
        return None
    top = tuple((token, -0.5 - token) for token in range(wanted))
    return (TokenLogprobs(lp=-0.25, top=top),) * num_nodes
