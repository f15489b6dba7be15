"""An edge's device, emulated on the event loop: it takes time, but neither a thread nor a core.

Stands where the compute thread does. A call is computed at once when its turn comes, and its
outcome is known when the device would have finished, so hundreds of edges fit into one process as
long as the arithmetic of all of them fits into one core. Drafting does not look at the world while
it runs, so nobody can tell the difference.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from specedge.clock import Cancellable, Timers
from specedge.errors import Busy
from specedge.service.compute import MAX_PENDING, IdleWork

P = ParamSpec("P")
T = TypeVar("T")


class EmulatedCompute:
    """``Compute`` and ``Clock`` in one: ``now_s`` is the device's own time within a call, and the
    loop's otherwise. ``work`` is what an emulated engine sleeps with. On one event loop.

    busy_s   that the device worked in all
    late_s   how long after its due time each outcome was handed over, newest last
    """

    def __init__(self, timers: Timers, *, max_late: int = 100_000) -> None:
        self.busy_s = 0.0
        self.late_s: deque[float] = deque(maxlen=max_late)
        self._timers = timers
        self._calls: deque[tuple[Callable[[], None], float]] = deque()
        self._idle: deque[IdleWork] = deque()
        self._busy: Cancellable | None = None
        self._working_s: float | None = None  # the device's time, within a call
        self._free_s = 0.0

    def now_s(self) -> float:
        """See ``Clock``."""
        return self._timers.now_s() if self._working_s is None else self._working_s

    def work(self, seconds: float) -> None:
        """Within a call: be busy for so long."""
        if self._working_s is not None:
            self._working_s += seconds
            self.busy_s += seconds

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Compute.run``."""
        return await self.start(function, *args, **kwargs)

    def start(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """See ``Compute.start``. Raises Busy as a thread would."""
        if len(self._calls) >= MAX_PENDING:
            raise Busy(f"the device has {len(self._calls)} calls to do")
        return self._enqueue(partial(function, *args, **kwargs))

    def start_farewell(self, function: Callable[[], None]) -> asyncio.Future[None]:
        """See ``Compute.start_farewell``."""
        return self._enqueue(function)

    def _enqueue(self, call: Callable[[], T]) -> asyncio.Future[T]:
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        now_s = self._timers.now_s()
        self._calls.append((partial(self._perform, call, outcome), now_s))
        self._go_on(now_s)
        return outcome

    def start_idle(self, step: Callable[[], bool]) -> IdleWork:
        """See ``Compute.start_idle``."""
        work = IdleWork(step)
        self._idle.append(work)
        self._go_on(self._timers.now_s())
        return work

    def _go_on(self, since_s: float) -> None:
        """Begin the next thing, unless something is being done. The device is idle since then."""
        while self._busy is None:
            if self._calls:
                perform, asked_s = self._calls.popleft()
                self._begin(asked_s)
                perform()
            elif not self._take_idle_step(since_s):
                return

    def _take_idle_step(self, since_s: float) -> bool:
        """One step of the first idle work that still wants one; whether there was any."""
        while self._idle:
            work = self._idle.popleft()
            if work.is_stopped:
                continue
            self._begin(since_s)
            try:
                if work.step():
                    self._idle.append(work)
            finally:
                self._end(None)
            return True
        return False

    def _begin(self, asked_s: float) -> None:
        self._working_s = max(asked_s, self._free_s)

    def _perform(self, call: Callable[[], T], outcome: asyncio.Future[T]) -> None:
        if outcome.cancelled():  # withdrawn: it takes no time
            self._working_s = None
            return
        try:
            result = call()
        except Exception as error:  # noqa: BLE001, RUF100 - handed to the asker, whatever it is
            self._end(partial(_fail, outcome, error))
        else:
            self._end(partial(_finish, outcome, result))

    def _end(self, hand_over: Callable[[], None] | None) -> None:
        """The arithmetic is done; the device is when its time has passed."""
        assert self._working_s is not None
        free_s, self._working_s = self._working_s, None
        self._free_s = free_s
        self._busy = self._timers.call_at(free_s, partial(self._on_free, free_s, hand_over))

    def _on_free(self, due_s: float, hand_over: Callable[[], None] | None) -> None:
        self._busy = None
        if hand_over is not None:
            self.late_s.append(self._timers.now_s() - due_s)
            hand_over()
        self._go_on(due_s)


def _finish(outcome: asyncio.Future[T], result: T) -> None:
    if not outcome.done():
        outcome.set_result(result)


def _fail(outcome: asyncio.Future[T], error: Exception) -> None:
    if not outcome.done():
        outcome.set_exception(error)
