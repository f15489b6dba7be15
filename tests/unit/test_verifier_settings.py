"""What a verifier's settings and its model's identity reach: its table, its step plan, its name on
the wire."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from specedge.clock import ManualClock
from specedge.ids import Round, SessionKey
from specedge.link.base import Message
from specedge.link.memory import MemoryHub
from specedge.protocol import subjects
from specedge.protocol.codec import batch_item, decode, encode
from specedge.protocol.context import context_chunks
from specedge.protocol.messages import Batch, BatchItem, Draft, SessionParams
from specedge.protocol.reports import Stat, StepReport
from specedge.protocol.subjects import Work
from specedge.protocol.token_log import TokenLog
from specedge.service.compute import ComputeThread
from specedge.service.runtime import LoopClock, ServiceContext, Tasks
from specedge.service.watchdog import LoopWatchdog
from specedge_verifier.app import _options
from specedge_verifier.config import VerifierSettings
from specedge_verifier.engines import identity_on_wire, load_engine
from specedge_verifier.metrics import VerifierMetrics
from specedge_verifier.verifier import Verifier
from tests.unit.scheduler_facts import key

PROMPT = [7]  # its one row is computed with the first round


class Rig:
    """A verifier as its settings make it, on a clock that is turned by hand."""

    def __init__(self, tasks: Tasks, compute: ComputeThread, **changed: object) -> None:
        settings = VerifierSettings(engine="emulated", **changed)
        loaded = load_engine(settings, lambda *_: None)
        self.clock = ManualClock(100.0)
        self.hub = MemoryHub(LoopClock())  # carries in real time: nobody turns it meanwhile
        self.tasks = tasks
        self.options = _options(settings, "abcd", loaded)
        self.verifier = Verifier(
            self.options,
            loaded,
            compute=compute,
            link=self.hub.link("verifier"),
            context=ServiceContext(tasks, self.clock, LoopWatchdog(self.clock), asyncio.Event()),
            metrics=VerifierMetrics(CollectorRegistry()),
        )
        self.params = SessionParams(
            model=loaded.identity.name,
            weights=identity_on_wire(loaded.identity).weights,
            tokenizer=loaded.identity.tokenizer_fingerprint,
            prompt=len(PROMPT),
            max_tokens=20,
        )

    def hear(self, kind: Work, payload: bytes, session: SessionKey | None = None) -> None:
        subject = subjects.work(kind, self.options.name, session)
        self.verifier.handler.on_message(Message(subject, payload))

    def open(self, session: SessionKey) -> None:
        for chunk in context_chunks(TokenLog(self.params, PROMPT), self.params, Round(0)):
            self.hear(Work.CONTEXT, chunk, session)

    def item(self, session: SessionKey, run: int = 0) -> BatchItem:
        base = len(PROMPT)
        hash_ = TokenLog(self.params, PROMPT).hash_at(base)
        draft = Draft(base=base, hash=hash_, round=0, budget_ms=1000, run=run)
        return batch_item(draft, session, budget_ms=1000, held_ms=0.0)

    async def first_step(self) -> StepReport:
        """Of what it was told so far."""
        steps: asyncio.Queue[StepReport] = asyncio.Queue()

        def on_stat(message: Message) -> None:
            for step in decode(Stat, message.payload).steps:
                steps.put_nowait(step)

        scheduler = self.hub.link("scheduler")
        await scheduler.subscribe(subjects.verifier_stat(self.options.name), on_stat)
        working = [
            self.tasks.start(self.verifier.outbox.run(), name="outbox"),
            self.tasks.start(self.verifier.loop.run(), name="loop"),
        ]
        async with asyncio.timeout(10):
            step = await steps.get()
        for task in working:
            task.cancel()
        return step


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks() as tasks:
        yield tasks


@pytest.mark.parametrize("idle_s", [5.0, 60.0])
async def test_a_session_is_given_up_when_it_was_idle_for_as_long_as_the_settings_say(
    tasks: Tasks, compute: ComputeThread, idle_s: float
) -> None:
    rig = Rig(tasks, compute, idle_s=idle_s)
    table = rig.verifier.table
    rig.hear(Work.BATCH, encode(Batch(epoch=(1, 0), seq=1, items=(rig.item(key("A")),))))
    table.start_sweeping()

    rig.clock.advance(idle_s - 0.5)
    assert len(table) == 1, "cold, and idle, but not for long enough"
    rig.clock.advance(2.0)

    assert len(table) == 0
    table.close()


@pytest.mark.parametrize(("hosted_share", "hosted_rows"), [(0.25, 2), (0.5, 4)])
async def test_while_drafts_wait_hosted_sessions_take_of_a_step_what_the_settings_say(
    tasks: Tasks, compute: ComputeThread, hosted_share: float, hosted_rows: int
) -> None:
    rig = Rig(tasks, compute, hosted_share=hosted_share, max_step_tokens=8)
    drafting, hosted = key("A"), [key("B", number) for number in range(10)]
    for session in (drafting, *hosted):
        rig.open(session)
    items = (rig.item(drafting), *(rig.item(session, run=8) for session in hosted))
    rig.hear(Work.BATCH, encode(Batch(epoch=(1, 0), seq=1, items=items)))

    step = await rig.first_step()

    assert (step.sessions, step.hosted) == (1 + hosted_rows, hosted_rows)


def test_an_identity_on_the_wire_differs_between_what_models_are_computed_in() -> None:
    loaded = load_engine(VerifierSettings(engine="emulated"), lambda *_: None)
    exact = replace(loaded.identity, dtype="float32")

    fp32, bf16, fp16 = (
        identity_on_wire(replace(exact, dtype=dtype))
        for dtype in ("float32", "bfloat16", "float16")
    )

    assert fp32.weights == exact.weights_fingerprint
    assert len({fp32.weights, bf16.weights, fp16.weights}) == 3
    assert (fp32.dtype, bf16.dtype) == ("float32", "bfloat16")
    assert bf16.tokenizer == fp32.tokenizer, "the vocabulary is the same"
