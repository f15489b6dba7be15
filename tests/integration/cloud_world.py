"""A cloud in one process: the real scheduler and verifiers over the in-process link, emulated
engines, and edges that are driven by a script. For tests."""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import orjson

from specedge.clock import Cancellable, Timers
from specedge.engine.emulated import EmulatedTarget, EmulatedText, emulated_continuation
from specedge.engine.ports import NodeChoices, StepItem, TargetEngine
from specedge.errors import LinkDown, RetryableError
from specedge.ids import (
    EdgeId,
    Epoch,
    GroupId,
    Round,
    SchedulerId,
    SessionId,
    SessionKey,
    VerifierId,
)
from specedge.link.base import Message
from specedge.link.memory import MemoryHub, WireProfile
from specedge.params import SamplingParams, StopRule
from specedge.profiles import DeviceProfile
from specedge.protocol import subjects
from specedge.protocol.codec import decode_down, decode_open_reply, encode
from specedge.protocol.context import context_chunks
from specedge.protocol.edge_session import EdgeSession
from specedge.protocol.effects import (
    Answered,
    AskDraft,
    CancelAsked,
    Committed,
    Drafted,
    EdgeEffect,
    EdgeEvent,
    Ended,
    OpenAnswered,
    OpenFailed,
    RequestOpen,
    SendUp,
    SetTimer,
    Started,
    TimerDue,
)
from specedge.protocol.messages import DownMessage, Progress, SessionParams, Verdict
from specedge.protocol.opening import Limits, Opened, OpenRequest
from specedge.protocol.refusals import ANY_WEIGHTS
from specedge.protocol.round_timer import EdgeSessionConfig
from specedge.protocol.subjects import Up
from specedge.protocol.token_log import TokenLog
from specedge.service.compute import ComputeThread
from specedge.service.health import HealthState
from specedge.service.metrics import ServiceMetrics
from specedge.service.runtime import ServiceContext, Tasks, service_context
from specedge.tree.token_tree import TokenTree
from specedge_scheduler import app as scheduler_app
from specedge_scheduler.metrics import SchedulerMetrics
from specedge_scheduler.policy.types import SchedulerLimits
from specedge_verifier import app as verifier_app
from specedge_verifier.engines import LoadedEngine
from specedge_verifier.entry import SessionTimes
from specedge_verifier.hosted_drafting import HostedDrafter
from specedge_verifier.metrics import VerifierMetrics

TEXT = EmulatedText()
FIRST_TERM = Epoch(1, 0)
LIMITS = Limits(nodes=32, append=64, context=4096, grant=32)
PROMPT = [5, 6, 7, 8, 9]


POISON = 31_999


class WatchedTarget(EmulatedTarget):
    """An emulated target that remembers what each step held, as (rows, prefill rows, sessions), and
    breaks on a context with the token ``POISON``."""

    def __init__(
        self, *, step_ms: float, prefill_token_ms: float, slots: int, kv_tokens: int = 1 << 22
    ) -> None:
        profile = DeviceProfile(
            "test", "made up", fixed_ms=step_ms, prefill_token_ms=prefill_token_ms
        )
        super().__init__(TEXT, profile=profile, sleep=time.sleep, slots=slots, kv_tokens=kv_tokens)
        self.steps: list[tuple[int, int, int]] = []

    def step(self, items: Sequence[StepItem]) -> list[NodeChoices | None]:
        if any(POISON in item.chain for item in items):
            raise ArithmeticError("poisoned")
        choices = super().step(items)
        rows = sum(item.num_rows for item in items)
        prefill = sum(item.num_rows for item in items if item.tree is None)
        self.steps.append((rows, prefill, len(items)))
        return choices


@dataclass
class RunningVerifier:
    """One verifier service; ``kill`` is kill -9, ``drain`` is SIGTERM. ``engine`` is its emulated
    target, idle if it was given another."""

    engine: WatchedTarget
    context: ServiceContext
    task: asyncio.Task[None]
    metrics: ServiceMetrics

    def count(self, name: str, **labels: str) -> float:
        """A metric's value, by its full name."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def drain(self) -> None:
        self.context.begin_drain()
        await self.task


@dataclass
class Cloud:
    """A scheduler, and verifiers as a test wants them."""

    hub: MemoryHub
    clock: Timers
    tasks: Tasks
    profile: WireProfile  # of every service's and edge's link
    verifiers: dict[str, "RunningVerifier"] = field(default_factory=dict)
    scheduling: ServiceMetrics = field(default_factory=lambda: ServiceMetrics("scheduler"))

    async def start_scheduler(
        self, limits: SchedulerLimits | None = None, epoch: Epoch = FIRST_TERM
    ) -> asyncio.Task[None]:
        """Start one; return when it listens. Cancelling the task is kill -9."""
        who = scheduler_app.SchedulerIdentity(
            SchedulerId("scheduler-1"), GroupId("main"), epoch, secrets.token_hex(4)
        )
        link = self.hub.link("scheduler", self.profile)
        health = HealthState()
        self.scheduling = ServiceMetrics("scheduler")  # of the one that was started last
        metrics = SchedulerMetrics(self.scheduling.registry)

        async def run() -> None:
            async with service_context() as context:
                try:
                    await scheduler_app.serve(
                        who,
                        limits or SchedulerLimits(),
                        link=link,
                        context=context,
                        metrics=metrics,
                        health=health,
                    )
                finally:
                    await link.close()

        task = self.tasks.start(run(), name="scheduler")
        while not health.is_ready:
            await asyncio.sleep(0)
        return task

    async def lost_a_verifier(self, reason: str) -> None:
        """Wait until the scheduler takes one for lost."""
        name, labels = "specedge_verifiers_lost_total", {"reason": reason}
        async with asyncio.timeout(30.0):
            while not self.scheduling.registry.get_sample_value(name, labels):
                await asyncio.sleep(0.01)  # nothing is published of it: nobody would hear

    async def start_verifier(
        self,
        name: str,
        *,
        step_ms: float = 1.0,
        prefill_token_ms: float = 0.0,
        slots: int = 8,
        kv_tokens: int = 1 << 22,
        max_step_tokens: int = 256,
        limits: Limits = LIMITS,
        times: SessionTimes | None = None,
        drafter: HostedDrafter | None = None,
        target: TargetEngine | None = None,
    ) -> RunningVerifier:
        """Start one, on an emulated target or on ``target``, and wait until it has reported."""
        engine = WatchedTarget(
            step_ms=step_ms, prefill_token_ms=prefill_token_ms, slots=slots, kv_tokens=kv_tokens
        )
        used = target or engine
        loaded = LoadedEngine(used, used.identity, slots, max_step_tokens, drafter)
        options = verifier_app.VerifierOptions(
            VerifierId(name), secrets.token_hex(4), limits, times or SessionTimes(), drain_s=5.0
        )
        metrics = ServiceMetrics("verifier")
        ready: asyncio.Future[ServiceContext] = asyncio.get_running_loop().create_future()
        reported = asyncio.Event()
        watcher = self.hub.link("watcher")
        heard = await watcher.subscribe(
            subjects.verifier_stat(VerifierId(name)), lambda _: reported.set()
        )

        async def run() -> None:
            compute = ComputeThread(name)
            link = self.hub.link(name, self.profile)
            try:
                async with service_context() as context:
                    ready.set_result(context)
                    await verifier_app.serve(
                        options,
                        loaded,
                        compute=compute,
                        link=link,
                        context=context,
                        metrics=VerifierMetrics(metrics.registry),
                    )
            finally:
                await link.close()
                await compute.close()

        task = self.tasks.start(run(), name=name)
        await reported.wait()
        await heard.unsubscribe()
        await watcher.close()
        running = RunningVerifier(engine, await ready, task, metrics)
        self.verifiers[name] = running
        return running


@asynccontextmanager
async def cloud(profile: WireProfile | None = None) -> AsyncIterator[Cloud]:
    """A hub with nothing on it yet; ``profile`` says how bad its wires are."""
    async with service_context() as context:
        hub = MemoryHub(context.clock)
        yield Cloud(hub, context.clock, context.tasks, profile or WireProfile())


def edge_id(letter: str) -> EdgeId:
    return EdgeId("U" + letter * 55)


Draw = Callable[[Sequence[int], int], Drafted]


def truth(num_nodes: int = 4, wrong_every: int = 3) -> Draw:
    """Drafts what the target will say, with a wrong node now and then."""
    turns = itertools.count(1)

    def draw(committed: Sequence[int], max_nodes: int) -> Drafted:
        stop = StopRule(max_tokens=num_nodes)
        tokens = emulated_continuation(committed, stop, text=TEXT)[:max_nodes]
        if next(turns) % wrong_every == 0 and tokens:
            tokens[-1] = (tokens[-1] + 1) % TEXT.vocab_size
        tree = TokenTree.from_parents([int(committed[-1]), *tokens], [-1, *range(len(tokens))])
        return Drafted(tree)

    return draw


def hosted(run: int = 16) -> Draw:
    """Lets the verifier generate alone."""
    return lambda committed, _: Drafted(TokenTree.root_only(int(committed[-1])), run)


class ScriptedEdge:
    """An edge without a drafter or an API: sessions' machines, and a link."""

    def __init__(self, world: Cloud, letter: str) -> None:
        self.id = edge_id(letter)
        self.link = world.hub.link(f"edge-{letter}", inbox_prefix=subjects.edge_inbox(self.id))
        self._clock = world.clock
        self._tasks = world.tasks
        self._numbers = itertools.count(1)
        self._listeners: dict[SessionKey, Callable[[DownMessage], None]] = {}

    async def start(self) -> "ScriptedEdge":
        await self.link.subscribe(subjects.down_all_sessions(self.id), self._on_down)
        return self

    def key(self) -> SessionKey:
        return SessionKey(self.id, SessionId(f"{next(self._numbers):032x}"))

    def listen(self, key: SessionKey, listener: Callable[[DownMessage], None]) -> None:
        self._listeners[key] = listener

    def session(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        draw: Draw,
        *,
        config: EdgeSessionConfig | None = None,
        **params: object,
    ) -> "ScriptedSession":
        identity = TEXT.identity()
        session_params = SessionParams(
            model=identity.name,
            weights=ANY_WEIGHTS,
            tokenizer=identity.tokenizer_fingerprint,
            prompt=len(prompt),
            max_tokens=max_tokens,
        ).model_copy(update=params)
        machine = EdgeSession(session_params, np.asarray(prompt, dtype=np.int32), config)
        return ScriptedSession(self, self.key(), machine, draw, self._clock, self._tasks)

    def _on_down(self, message: Message) -> None:
        key = subjects.parse_down_session(message.subject)
        if key in self._listeners:
            self._listeners[key](decode_down(message.payload))


class ScriptedSession:
    """Performs one session machine's effects."""

    def __init__(
        self,
        edge: ScriptedEdge,
        key: SessionKey,
        machine: EdgeSession,
        draw: Draw,
        clock: Timers,
        tasks: Tasks,
    ) -> None:
        self.key = key
        self.machine = machine
        self.verdicts: list[Verdict] = []
        self.heard: list[DownMessage] = []
        self.committed_some = asyncio.Event()
        self.ended: Ended | None = None
        self._edge = edge
        self._draw = draw
        self._clock = clock
        self._tasks = tasks
        self._events: asyncio.Queue[EdgeEvent] = asyncio.Queue()
        self._timer: Cancellable | None = None
        self.tokens: list[int] = []
        edge.listen(key, self._on_answer)

    def tell(self, event: EdgeEvent) -> None:
        self._events.put_nowait(event)

    def cancel(self) -> None:
        self.tell(CancelAsked())

    async def run(self) -> Ended:
        """To the end, whichever it is."""
        self.tell(Started())
        while self.ended is None:
            event = await self._events.get()
            for effect in self.machine.on(event, self._clock.now_s()):
                await self._perform(effect)
        self._set_timer(None)
        return self.ended

    def _on_answer(self, message: DownMessage) -> None:
        self.heard.append(message)
        self.tell(Answered(message))

    async def _perform(self, effect: EdgeEffect) -> None:
        match effect:
            case RequestOpen():
                self._tasks.start(self._open(effect), name="open")
            case SendUp():
                with contextlib.suppress(LinkDown):
                    await self._edge.link.publish(self._subject(effect.kind), effect.payload)
            case SetTimer():
                self._set_timer(effect.at_s)
            case AskDraft():
                committed = self.machine.committed[: effect.base].tolist()
                drafted = self._draw(committed, effect.max_nodes)
                self.tell(replace(drafted, base=effect.base))
            case Committed():
                self.tokens += effect.tokens
                self.verdicts.append(effect.verdict)
                self.committed_some.set()
            case Ended():
                self.ended = effect

    async def _open(self, effect: RequestOpen) -> None:
        try:
            reply = await self._edge.link.request(
                subjects.up_open(self.key), effect.payload, timeout_s=effect.timeout_s
            )
        except RetryableError as error:
            self.tell(OpenFailed(error))
        else:
            self.tell(OpenAnswered(decode_open_reply(reply)))

    def _subject(self, kind: Up) -> str:
        group = self.machine.group or "main"
        match kind:
            case Up.CONTEXT:
                return subjects.up_context(self.key, group)
            case Up.DRAFT:
                return subjects.up_draft(self.key, group)
            case Up.CANCEL:
                return subjects.up_cancel(self.key)
            case Up.CLOSE:
                return subjects.up_close(self.key)
            case _:
                raise ValueError(f"a scripted session does not know how to say {kind}")

    def _set_timer(self, at_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if at_s is not None:
            self._timer = self._clock.call_at(at_s, lambda: self.tell(TimerDue()))


def in_turns(*draws: Draw) -> Draw:
    """Each round, or grant, by the next of them."""
    turns = itertools.cycle(draws)

    def draw(committed: Sequence[int], max_nodes: int) -> Drafted:
        return next(turns)(committed, max_nodes)

    return draw


def reference(
    prompt: Sequence[int], max_tokens: int, params: SamplingParams | None = None
) -> list[int]:
    """What plain decoding yields."""
    return emulated_continuation(prompt, StopRule(max_tokens=max_tokens), params, TEXT)


class ReadyToDraft:
    """A session whose context is at its verifier, and whose drafts a test spells byte by byte."""

    def __init__(self, edge: ScriptedEdge, prompt: Sequence[int]) -> None:
        identity = TEXT.identity()
        self.key = edge.key()
        self._edge = edge
        self._heard: asyncio.Queue[DownMessage] = asyncio.Queue()
        self._tries = itertools.count()
        self._params = SessionParams(
            model=identity.name,
            weights=identity.weights_fingerprint,
            tokenizer=identity.tokenizer_fingerprint,
            prompt=len(prompt),
            max_tokens=50,
        )
        self._log = TokenLog(self._params, prompt)
        edge.listen(self.key, self._heard.put_nowait)

    @classmethod
    async def make(cls, edge: ScriptedEdge, prompt: Sequence[int]) -> "ReadyToDraft":
        session = cls(edge, prompt)
        request = OpenRequest(
            model=session._params.model, tokenizer=session._params.tokenizer, context=100
        )
        reply = await edge.link.request(
            subjects.up_open(session.key), encode(request), timeout_s=30.0
        )
        assert isinstance(decode_open_reply(reply), Opened)
        for chunk in context_chunks(session._log, session._params, Round(0)):
            await edge.link.publish(subjects.up_context(session.key, "main"), chunk)
        return session

    async def say(self, change: dict[str, object]) -> DownMessage:
        """Round 0 on the prompt, with ``change``: the first answer that is not progress."""
        base = len(self._log)
        fields = {
            "v": 1,
            "round": 0,
            "try": next(self._tries),
            "base": base,
            "hash": self._log.hash_at(base),
            "budget_ms": 20_000,
        }
        return await self.say_bytes(orjson.dumps(fields | change))

    async def say_bytes(self, payload: bytes) -> DownMessage:
        """A draft of these bytes."""
        await self._edge.link.publish(subjects.up_draft(self.key, "main"), payload)
        return await self.hear()

    async def hear(self) -> DownMessage:
        """The next answer that is not progress."""
        async with asyncio.timeout(30):
            while isinstance(answer := await self._heard.get(), Progress):
                pass
        return answer

    async def rest(self, quiet_s: float) -> list[DownMessage]:
        """What else comes, until nothing has for so long."""
        answers: list[DownMessage] = []
        with contextlib.suppress(TimeoutError):
            while True:
                answers.append(await asyncio.wait_for(self.hear(), quiet_s))
        return answers
