"""A verifier by script: takes batches as a real one does, lets a step's time pass, and reports it.

It says to schedulers all that a real one says, in full size, and computes nothing. Verdicts go to
``answer``, inside this process: a scheduler never sees them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from specedge.clock import Clock
from specedge.ids import SessionKey, VerifierId
from specedge.link.base import Link, Message
from specedge.protocol import subjects
from specedge.protocol.codec import decode, encode
from specedge.protocol.messages import Batch, BatchItem
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.reports import SessionReport, Stat, StepReport

HEARTBEAT_S: Final = 0.1
BEATS_PER_ROUND: Final = 10
STEPS_REPEATED: Final = 2
SLOTS: Final = 128
STEP_ROWS: Final = 4096
MODEL: Final = Identity(
    model="scripted",
    weights="5c21",
    tokenizer="70ce",
    vocab_size=50_000,
    stop=(2,),
    max_context=32_768,
)
LIMITS: Final = Limits(nodes=64, append=64, context=32_768, grant=0)

Answer = Callable[[SessionKey, BatchItem], None]


class ScriptedVerifier:
    """One verifier. Its steps take ``step_s``, whatever is in them."""

    def __init__(
        self, name: VerifierId, link: Link, clock: Clock, step_s: float, answer: Answer
    ) -> None:
        self._name = name
        self._link = link
        self._clock = clock
        self._step_s = step_s
        self._answer = answer
        self._work = asyncio.Event()
        self._queued: dict[int, Batch] = {}
        self._running: dict[int, Batch] = {}
        self._arrived_s = 0.0
        self._silent_s = self._list_s = 0.0  # when a report, and a share of the sessions, is due
        self._rounds: dict[SessionKey, int] = {}  # of the sessions held: the last one answered
        self._last, self._begun = 0, 0
        self._epoch = (0, 0)
        self._seq, self._num_steps, self._num_listed = 0, 0, 0
        self._steps: deque[StepReport] = deque(maxlen=STEPS_REPEATED)

    async def start(self) -> None:
        """Listen for work."""
        await self._link.subscribe(subjects.all_work(self._name), self._on_work)

    async def beat(self) -> None:
        """Be silent for no longer than a heartbeat, until cancelled."""
        while True:
            if self._clock.now_s() >= self._silent_s:
                await self._tell()
            await asyncio.sleep(self._silent_s - self._clock.now_s())

    def _next_to_list(self) -> tuple[SessionReport, ...] | None:
        """A tenth of the sessions where that is due, as a verifier does."""
        now_s = self._clock.now_s()
        if now_s < self._list_s:
            return None
        self._list_s = now_s + HEARTBEAT_S
        held = list(self._rounds.items())
        first = self._num_listed if self._num_listed < len(held) else 0
        self._num_listed = first + -(-len(held) // BEATS_PER_ROUND)
        return tuple(
            [
                SessionReport.model_construct(e=key.edge, s=key.session, round=last, state="ready")
                for key, last in held[first : self._num_listed]
            ]
        )

    async def run(self) -> None:
        """Step until cancelled."""
        while True:
            self._work.clear()
            if not self._queued:
                await self._work.wait()
            self._running, self._queued = self._queued, {}
            self._begun = max(self._running)
            began_s = self._clock.now_s()
            slack_s = began_s - self._arrived_s
            await asyncio.sleep(self._step_s)
            await self._end_step(self._clock.now_s() - began_s, slack_s)

    async def _end_step(self, took_s: float, slack_s: float) -> None:
        items = [item for batch in self._running.values() for item in batch.items]
        rows = _rows(self._running)
        self._running = {}
        self._steps.append(
            StepReport.model_construct(
                seq=self._num_steps,
                rows=rows,
                prefill=0,
                context=sum(item.base for item in items),
                sessions=len(items),
                ms=round(1000 * took_s, 3),
                slack_ms=round(1000 * slack_s, 3),
            )
        )
        self._num_steps += 1
        for item in items:
            key = subjects.session_key(item.e, item.s)
            assert key is not None  # the edges are ours
            self._rounds[key] = item.round
            self._answer(key, item)
        await self._tell()

    async def _tell(self) -> None:
        self._silent_s = self._clock.now_s() + HEARTBEAT_S
        stat = Stat.model_construct(
            inc="scripted",
            seq=self._seq,
            identity=MODEL,
            limits=LIMITS,
            slots=(len(self._rounds), SLOTS),
            sessions=self._next_to_list(),
            epoch=self._epoch,
            batches=(*self._running, *self._queued),
            last=self._last,
            begun=self._begun,
            queued=_rows(self._queued),
            running=_rows(self._running),
            step_rows=STEP_ROWS,
            busy_s=round(self._num_steps * self._step_s, 4),
            steps=tuple(self._steps),
        )
        self._seq += 1
        await self._link.publish(subjects.verifier_stat(self._name), encode(stat))

    def _on_work(self, message: Message) -> None:
        address = subjects.parse_work(message.subject)
        assert address is not None  # nobody else is on this broker
        if address.kind is subjects.Work.BATCH:
            batch = decode(Batch, message.payload)
            self._queued[batch.seq] = batch
            self._last, self._epoch = batch.seq, batch.epoch
            self._arrived_s = self._clock.now_s()
            self._work.set()
        elif address.kind is subjects.Work.CLOSE and address.key is not None:
            self._rounds.pop(address.key, None)


def _rows(batches: dict[int, Batch]) -> int:
    items = (item for batch in batches.values() for item in batch.items)
    return sum(1 + len(item.append) + len(item.token) for item in items)
