"""The frame that every service process runs in: its loop, its clock, its tasks, its signals.

The only file that creates asyncio tasks, and whose clock services decide and wait by. Elsewhere the
real one is read only to measure how long something took (the verifier's turn, emulated devices,
distilling) and to say when something was (spans, the API, a scheduler's term, the commands). Knows
nothing of links, HTTP or what a service does.
"""

import asyncio
import contextlib
import gc
import heapq
import itertools
import math
import os
import selectors
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog

from specedge.clock import Cancellable
from specedge.errors import SpecEdgeError
from specedge.service.compute import ComputeThread
from specedge.service.watchdog import LoopWatchdog

__all__ = [
    "ComputeThread",
    "LoopClock",
    "LoopWatchdog",
    "ServiceContext",
    "Tasks",
    "run_service",
    "service_context",
    "settle_heap",
]

T = TypeVar("T")

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
# Containers made and not freed since the last look for cycles, by generation: some MB at most.
RARELY: Final = (50_000, 20, 20)
TIMER_GRAIN_S: Final = 0.001  # event loops round their timers to milliseconds
FINE_GRAIN_S: Final = 0.00002

_log = structlog.get_logger("specedge.service")


class Tasks:
    """The only creator of tasks: a task group whose tasks end with its body.

    As an async context manager, entered and left by one task. When the body ends, what still runs
    is cancelled and waited for; when a task fails, the body and its siblings are cancelled and the
    failure is raised from the ``async with`` as an ExceptionGroup.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._running:
            task.cancel()
        await self._group.__aexit__(exc_type, exc, traceback)

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run ``coroutine`` beside the body. ``name`` shows in logs and debuggers."""
        task = self._group.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


@dataclass(slots=True)
class _Timer:
    callback: Callable[[], None] | None

    def cancel(self) -> None:
        """Idempotent; the entry leaves the heap when its time comes."""
        self.callback = None


class LoopClock:
    """``specedge.clock.Timers`` on the running loop. Made and used inside that loop only.

    Keeps its own heap and one timer of the loop for the earliest entry: loops round to
    milliseconds, which would let a timer fire early or before one that was due sooner.
    ``grain_s``: what the loop rounds to.
    """

    def __init__(self, grain_s: float = TIMER_GRAIN_S) -> None:
        self._grain_s = grain_s
        self._loop = asyncio.get_running_loop()
        self._sequence = itertools.count()
        self._due: list[tuple[float, int, _Timer]] = []
        self._armed: asyncio.TimerHandle | None = None
        self._armed_for_s = math.inf

    def now_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Cancellable:
        """See ``Timers.call_at``. What a callback raises goes to the loop's exception handler."""
        timer = _Timer(callback)
        heapq.heappush(self._due, (when_s, next(self._sequence), timer))
        if when_s < self._armed_for_s:
            self._arm()
        return timer

    def _arm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed, self._armed_for_s = None, math.inf
        while self._due and self._due[0][2].callback is None:
            heapq.heappop(self._due)
        if not self._due:
            return
        self._armed_for_s = self._due[0][0]
        wait_s = max(0.0, self._armed_for_s - self.now_s())
        rounded_s = math.ceil(wait_s / self._grain_s) * self._grain_s
        self._armed = self._loop.call_later(rounded_s, self._fire)

    def _fire(self) -> None:
        # Only what was due when the turn began, so that a callback which asks for "now" again and
        # again cannot hold the loop.
        until_s, last = self.now_s(), next(self._sequence)
        try:
            while self._due and self._due[0][0] <= until_s and self._due[0][1] < last:
                callback = heapq.heappop(self._due)[2].callback
                if callback is not None:
                    self._call(callback)
        finally:
            self._arm()

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001, RUF100 - a callback's root
            self._loop.call_exception_handler(
                {"message": f"timer callback failed: {callback!r}", "exception": error}
            )


class DrainBegan(Exception):
    """The service was asked to end before it had begun."""


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What a service's ``main`` is given.

    drain   set by the first SIGTERM or SIGINT: take no new work, finish what runs, then return
    """

    tasks: Tasks
    clock: LoopClock
    watchdog: LoopWatchdog
    drain: asyncio.Event
    _on_drain: list[Callable[[], None]] = field(default_factory=list)

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when draining begins, before anybody who awaits ``drain`` runs."""
        self._on_drain.append(callback)

    async def unless_draining(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What ``coroutine`` returns or raises. Raises DrainBegan, and cancels it, where the drain
        begins first."""
        work, drain = asyncio.create_task(coroutine), asyncio.create_task(self.drain.wait())
        try:
            await asyncio.wait((work, drain), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise DrainBegan
        finally:
            work.cancel()
            drain.cancel()
            await asyncio.wait((work, drain))

    def begin_drain(self) -> None:
        """What the first signal does. Idempotent."""
        if self.drain.is_set():
            return
        _log.info("drain_started")
        self.drain.set()
        for callback in self._on_drain:
            callback()


ServiceMain = Callable[[ServiceContext], Awaitable[None]]


def run_service(main: ServiceMain, *, fine_timers: bool = False) -> int:
    """Run a service until ``main`` returns, on uvloop where there is one. Returns the exit code.
    ``fine_timers``: on a slower loop, whose timers are true to microseconds, not milliseconds.

    The first SIGTERM or SIGINT begins the drain: ``main`` sees ``context.drain`` and returns when
    it is done. The second cancels ``main``, and the exit code is 128 + the signal; where ``main``
    waits for what nobody can cancel (a library that fetches weights), the third ends the process
    at once, with the same code. An error of
    ``main`` or of one of its tasks is logged and makes the exit code 1. Main thread only.
    """
    loop_factory = _fine_loop if fine_timers else _loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_serve(main, FINE_GRAIN_S if fine_timers else TIMER_GRAIN_S))


def settle_heap() -> None:
    """Take everything alive now out of the garbage collector's sight. Called once, when a service
    has loaded: libraries and models make a heap whose full collection stops every thread for
    longer than a round, and nothing in it is ever garbage. And look for cycles rarely from then on:
    almost everything goes by its count, and looking took an eighth of a busy scheduler's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*RARELY)


@contextlib.asynccontextmanager
async def service_context(grain_s: float = TIMER_GRAIN_S) -> AsyncIterator[ServiceContext]:
    """A context without signal handlers: for tests, and for commands that borrow a service's
    machinery. Leaving it ends its tasks."""
    clock = LoopClock(grain_s)
    async with Tasks() as tasks:
        watchdog = LoopWatchdog(clock)
        watchdog.start()
        try:
            yield ServiceContext(tasks, clock, watchdog, asyncio.Event())
        finally:
            watchdog.stop()


async def _serve(main: ServiceMain, grain_s: float) -> int:
    stopped_by: list[signal.Signals] = []
    body = asyncio.current_task()
    assert body is not None

    def on_signal(number: signal.Signals) -> None:
        if not context.drain.is_set():
            context.begin_drain()
            return
        _log.warning("stopped_before_drained", signal=number.name)
        if stopped_by:
            os._exit(128 + number)
        stopped_by.append(number)
        body.cancel()

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        async with service_context(grain_s) as context:
            for number in numbers:
                loop.add_signal_handler(number, on_signal, number)
            await main(context)
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        return 128 + stopped_by[0]
    except Exception as error:  # noqa: BLE001, RUF100 - the process's root
        _log_failures(error)
        return EXIT_FAILED
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    return EXIT_OK


def _log_failures(error: BaseException) -> None:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            _log_failures(part)
    elif isinstance(error, SpecEdgeError):  # says what an operator must do; a traceback would not
        _log.error("service_failed", error=type(error).__name__, reason=str(error))
    else:
        _log.error("service_failed", exc_info=error)


def _fine_loop() -> asyncio.AbstractEventLoop:
    """``select`` takes its timeout in microseconds; ``epoll`` and uvloop round to milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    try:
        import uvloop  # noqa: PLC0415, RUF100 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop
