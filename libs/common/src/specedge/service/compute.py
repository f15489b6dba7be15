"""The one thread that owns an engine. The event loop asks it, awaits, and computes nothing."""

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, Protocol, TypeVar

from specedge.errors import Busy

P = ParamSpec("P")
T = TypeVar("T")

MAX_PENDING: Final = 256


class IdleWork:
    """A piece of work that ``ComputeThread.start_idle`` took on."""

    def __init__(self, step: Callable[[], bool]) -> None:
        self.step = step
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether no further step begins."""
        return self._is_stopped

    def stop(self) -> None:
        """No further step begins; one that has begun ends. From any thread; idempotent."""
        self._is_stopped = True


class Compute(Protocol):
    """What those who ask see of a compute thread; ``ComputeThread`` says what each call promises.
    Emulated devices are another, which take time but no thread."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` there; return or raise what it does."""
        ...

    def start(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """As ``run``, but the call is in line when this returns."""
        ...

    def start_farewell(self, function: Callable[[], None]) -> asyncio.Future[None]:
        """As ``start``, but never refused: for what gives back what it holds."""
        ...

    def start_idle(self, step: Callable[[], bool]) -> IdleWork:
        """Call ``step`` again and again while nothing else is asked for."""
        ...


class ComputeThread:
    """Runs calls one after the other, in the order of asking, on one thread of its own. While
    nobody asks it does idle work, step by step: a call never waits for more than one step.

    Used from one event loop. What the thread makes (a model, its caches) is touched by calls
    through it only.
    """

    def __init__(self, name: str, *, max_pending: int = MAX_PENDING) -> None:
        self._name = name
        self._max_pending = max_pending
        self._pending = 0
        # Each is written by one thread only: the loop's, or the executor's where it says so.
        self._num_asked = self._num_withdrawn = 0
        self._num_begun = 0  # the executor's
        self._is_closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    @property
    def pending(self) -> int:
        """Calls asked for and not finished, the running one included."""
        return self._pending

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` on the thread; return or raise what it does.

        Raises Busy, at once, with ``max_pending`` calls unfinished, and RuntimeError once closed.
        Cancelling it gives up the result: a call that has begun runs to its end, and whatever is
        asked for next comes after it; one that has not begun never begins.
        """
        return await self.start(function, *args, **kwargs)

    def start(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """As ``run``, but the call is in line when this returns, and the future is its outcome."""
        if self._pending >= self._max_pending:
            raise Busy(f"compute thread {self._name} has {self._pending} calls to do")
        return self._enqueue(functools.partial(function, *args, **kwargs))

    def start_farewell(self, function: Callable[[], None]) -> asyncio.Future[None]:
        """As ``start``, but however many calls wait: refused, what ``function`` gives back would be
        held for good. Await the future behind ``asyncio.shield``: cancelled, it is withdrawn."""
        return self._enqueue(function)

    def _enqueue(self, function: Callable[[], T]) -> asyncio.Future[T]:
        if self._is_closed:
            raise RuntimeError(f"compute thread {self._name} is closed")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        call = functools.partial(contextvars.copy_context().run, function)
        self._num_asked += 1
        job = self._executor.submit(self._perform, call, outcome)
        self._pending += 1
        # Called by the thread that cancels it, which is ``close`` or the asker.
        job.add_done_callback(
            lambda job: _call_soon(loop, self._drop, outcome) if job.cancelled() else None
        )
        outcome.add_done_callback(lambda done: self._withdraw(job) if done.cancelled() else None)
        return outcome

    def start_idle(self, step: Callable[[], bool]) -> IdleWork:
        """Call ``step`` on the thread again and again, while it returns True, nobody stops it and
        no call waits. Several such works take turns, step by step.

        ``step`` must not raise; what it raises ends the work and goes to the loop's exception
        handler. ``close`` ends it too. Raises RuntimeError once closed.
        """
        if self._is_closed:
            raise RuntimeError(f"compute thread {self._name} is closed")
        work = IdleWork(step)
        self._executor.submit(self._idle, work, asyncio.get_running_loop())
        return work

    async def close(self) -> None:
        """Drop what has not begun, wait for what runs, end the thread. Idempotent."""
        self._is_closed = True
        loop = asyncio.get_running_loop()
        end = functools.partial(self._executor.shutdown, wait=True, cancel_futures=True)
        await loop.run_in_executor(None, end)

    def _perform(self, call: Callable[[], T], outcome: asyncio.Future[T]) -> None:
        """On the thread. The loop is woken once a call: each wake costs as much as a message."""
        self._num_begun += 1
        loop = outcome.get_loop()
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001, RUF100 - handed to the asker, whatever it is
            _call_soon(loop, self._fail, outcome, error)
        else:
            _call_soon(loop, self._finish, outcome, result)

    def _idle(self, work: IdleWork, loop: asyncio.AbstractEventLoop) -> None:
        """On the thread: one turn of some idle work. The executor takes calls in the order of
        asking, so going to the end of the line lets those pass that wait already."""
        if work.is_stopped:
            return
        if self._num_asked - self._num_withdrawn == self._num_begun:
            try:
                if not work.step():
                    return
            except BaseException as error:  # noqa: BLE001, RUF100 - this work's root
                _call_soon(loop, _report, loop, self._name, error)
                return
        with contextlib.suppress(RuntimeError):  # closed
            self._executor.submit(self._idle, work, loop)

    def _withdraw(self, job: Future[None]) -> None:
        if job.cancel():
            self._num_withdrawn += 1

    def _finish(self, outcome: asyncio.Future[T], result: T) -> None:
        self._pending -= 1
        if not outcome.done():
            outcome.set_result(result)

    def _fail(self, outcome: asyncio.Future[T], error: BaseException) -> None:
        self._pending -= 1
        if not outcome.done():
            outcome.set_exception(error)

    def _drop(self, outcome: asyncio.Future[T]) -> None:
        self._pending -= 1
        outcome.cancel()


def _call_soon(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, *args)


def _report(loop: asyncio.AbstractEventLoop, name: str, error: BaseException) -> None:
    message = f"idle work of the compute thread {name} failed"
    loop.call_exception_handler({"message": message, "exception": error})
