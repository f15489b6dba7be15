"""A whole verifier, but for its model and its broker, in virtual time: handlers, sessions, slots,
engine loop, outbox and reports are the service's own."""

import asyncio
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from specedge.clock import ManualClock
from specedge.engine.ports import ModelIdentity
from specedge.engine.prompt_lookup import PromptLookupDrafter
from specedge.ids import SessionKey, VerifierId
from specedge.link.base import Message
from specedge.params import DraftPolicy
from specedge.protocol import codec, subjects
from specedge.protocol.messages import Ahead, Batch, BatchItem
from specedge.protocol.opening import Identity, Limits
from specedge.protocol.reports import Stat
from specedge.protocol.subjects import Work
from specedge.protocol.verifier_effects import VerifierEffect, VerifierEvent
from specedge.protocol.verifier_session import VerifierSession
from specedge_verifier.engines import LoadedEngine
from specedge_verifier.entry import SessionTimes
from specedge_verifier.hosted_drafting import HostedDrafter
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.verifier import Verifier, VerifierOptions
from tests.properties.rows_engine import DeviceLost, RowsEngine, VirtualCompute

TIMES = SessionTimes(idle_s=30.0, park_s=0.5, retry_ms=50)


class Faulty:
    """A session's machine that raises now and then, before or after it changed its state."""

    def __init__(self, machine: VerifierSession, random: Random, fault_rate: float) -> None:
        self._machine, self._random, self._fault_rate = machine, random, fault_rate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def on(self, event: VerifierEvent, now_s: float) -> list[VerifierEffect]:
        if self._random.random() < self._fault_rate / 2:
            raise ValueError("a fault, before")
        effects = self._machine.on(event, now_s)
        if self._random.random() < self._fault_rate / 2:
            raise ValueError("a fault, after")
        return effects


class VerifierProcess:
    """One verifier; it may crash and come back empty, and does so where its engine is broken. For a
    ``World``, in the place of a ``VerifierNode``. ``own_drafts``: it drafts for hosted rounds.
    ``fault_rate``: how often the machine of a session has a fault."""

    def __init__(
        self,
        name: str,
        clock: ManualClock,
        random: Random,
        reply: Callable[[SessionKey, bytes], None],
        identity: Identity,
        limits: Limits,
        *,
        num_slots: int,
        kv_rows: int,
        step_rows: int,
        fail_rate: float,
        own_drafts: bool,
        fault_rate: float = 0.0,
    ) -> None:
        self.name, self.is_up, self.num_crashes = VerifierId(name), False, 0
        self.stat: Stat | None = None
        self._clock, self._random, self._reply, self._limits = clock, random, reply, limits
        self._num_slots, self._kv_rows, self._step_rows = num_slots, kv_rows, step_rows
        self._fail_rate, self._own_drafts, self._fault_rate = fail_rate, own_drafts, fault_rate
        self._model = ModelIdentity(
            name=identity.model,
            revision="",
            weights_fingerprint=identity.weights,
            tokenizer_fingerprint=identity.tokenizer,
            vocab_size=identity.vocab_size,
            stop_ids=(),
            max_context_tokens=identity.max_context,
        )
        self._seq = 0

    # ---- the process

    def restart(self) -> None:
        if self.is_up:
            return
        self.is_up = True
        self.engine = RowsEngine(
            self._random, self._model, self._num_slots, self._kv_rows, self._fail_rate
        )
        drafter = HostedDrafter(PromptLookupDrafter(), DraftPolicy(depth=3, budget=6))
        self.verifier = Verifier(
            VerifierOptions(self.name, f"{self.num_crashes}", self._limits, TIMES),
            LoadedEngine(
                self.engine,
                self._model,
                self._num_slots,
                self._step_rows,
                drafter if self._own_drafts else None,
                max_prefill_tokens=self._step_rows // 2,
            ),
            compute=VirtualCompute(self._clock, self._random),  # type: ignore[arg-type]
            link=self,  # type: ignore[arg-type]
            context=SimpleNamespace(clock=self._clock),  # type: ignore[arg-type]
            metrics=VerifierMetrics(CollectorRegistry()),
        )
        make = self.verifier.table._make_machine
        self.verifier.table._make_machine = lambda key: Faulty(  # type: ignore[assignment]
            make(key), self._random, self._fault_rate
        )
        self._loop = asyncio.create_task(self.verifier.loop.run())
        self._outbox = asyncio.create_task(self.verifier.outbox.run())
        self.verifier.reporter.start()
        self.verifier.table.start_sweeping()

    def crash(self) -> None:
        if not self.is_up:
            return
        self.is_up = False
        self.num_crashes += 1
        self.verifier.reporter.close()
        self.verifier.table.close()
        self._loop.cancel()
        self._outbox.cancel()

    def look(self) -> None:
        """Supervise it. What else than a broken engine ends it is raised."""
        if not self.is_up:
            return
        assert not self.engine.wrong, self.engine.wrong
        if self._loop.done() or self._outbox.done():
            ended = self._loop if self._loop.done() else self._outbox
            if not isinstance(ended.exception(), DeviceLost):
                ended.result()
            self.crash()
            self._clock.call_at(self._clock.now_s() + 0.2, self.restart)

    def assert_nothing_is_held(self) -> None:
        verifier, stat = self.verifier, self.stat
        assert len(verifier.table) == 0
        assert not verifier.table.wants
        assert not verifier.table.ahead
        assert verifier.ledger.held == ()
        assert verifier.pool.num_leased == 0
        assert verifier.loop.idle.is_set()
        while verifier.pool.shrink():
            pass
        for call in verifier.pool.calls:
            call.make(self.engine)
        assert not self.engine.rows, "a slot is leased for nobody"
        assert stat is not None
        assert (stat.slots[0], stat.queued, stat.running, stat.hosted) == (0, 0, 0, 0)

    # ---- from the wire, and to it

    def on_context(self, key: SessionKey, payload: bytes) -> None:
        self.hear(Work.CONTEXT, payload, key)

    def on_item(self, item: BatchItem) -> None:
        self._seq += 1
        self.hear(Work.BATCH, codec.encode(Batch(epoch=(0, 0), seq=self._seq, items=(item,))))

    def on_ahead(self, key: SessionKey, ahead: Ahead) -> None:
        self.hear(Work.AHEAD, codec.encode(ahead), key)

    def on_ending(self, key: SessionKey) -> None:
        self.hear(Work.CLOSE, b"{}", key)

    def hear(self, kind: Work, payload: bytes, key: SessionKey | None = None) -> None:
        if self.is_up:
            message = Message(subjects.work(kind, self.name, key), payload)
            self.verifier.handler.on_message(message)

    async def publish(self, subject: str, payload: bytes) -> None:
        """As a link."""
        if (key := subjects.parse_down_session(subject)) is not None:
            self._reply(key, payload)
        else:
            self.stat = codec.decode(Stat, payload)
