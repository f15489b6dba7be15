"""The frame of a service: its tasks, its timers, and the watchdog over its loop."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
import uvloop

from specedge.clock import Cancellable, ManualClock, Timers
from specedge.service.runtime import LoopClock, Tasks, service_context
from specedge.service.watchdog import LoopWatchdog

# Tasks


async def test_what_outlives_the_body_is_cancelled() -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("forever")

    async with Tasks() as tasks:
        tasks.start(forever(), name="forever")
        await asyncio.sleep(0)

    assert ended == ["forever"]


async def test_a_task_that_fails_ends_its_siblings_and_the_body() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    siblings: list[asyncio.Task[bool]] = []
    with pytest.raises(ExceptionGroup) as failure:
        async with Tasks() as tasks:
            siblings.append(tasks.start(asyncio.Event().wait(), name="sibling"))
            tasks.start(fail(), name="fail")
            await asyncio.Event().wait()

    assert [type(error) for error in failure.value.exceptions] == [ValueError]
    assert siblings[0].cancelled()


# LoopClock


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def test_timers_fire_in_order_of_time_then_of_asking_and_never_early(
    runner: asyncio.Runner,
) -> None:
    fired: list[tuple[int, float]] = []

    async def run() -> float:
        clock, over = LoopClock(), asyncio.Event()
        start_s = clock.now_s()

        def fire(number: int) -> None:
            fired.append((number, clock.now_s() - start_s))
            if len(fired) == len(waits_s):
                over.set()

        for number, wait_s in enumerate(waits_s):
            clock.call_at(start_s + wait_s, lambda n=number: fire(n))  # type: ignore[misc]
        async with asyncio.timeout(5.0):
            await over.wait()
        return start_s

    waits_s = [0.0304, 0.0101, 0.0104, 0.0102, 0.0, 0.0101, -1.0, 0.0301]
    runner.run(run())

    assert [number for number, _ in fired] == [6, 4, 1, 5, 3, 2, 7, 0]
    assert all(at_s >= waits_s[number] for number, at_s in fired)


def test_a_cancelled_timer_does_not_fire(runner: asyncio.Runner) -> None:
    fired: list[str] = []

    async def run() -> None:
        clock, over = LoopClock(), asyncio.Event()
        first = clock.call_at(clock.now_s(), lambda: fired.append("cancelled"))
        clock.call_at(clock.now_s() + 0.005, over.set)
        first.cancel()
        first.cancel()
        await over.wait()
        first.cancel()

    runner.run(run())

    assert fired == []


def test_timers_set_by_timers_fire_and_let_the_loop_turn(runner: asyncio.Runner) -> None:
    async def run() -> int:
        clock, turns, left = LoopClock(), 0, 50
        over = asyncio.Event()

        def again() -> None:
            nonlocal left
            left -= 1
            if left:
                clock.call_at(clock.now_s(), again)
            else:
                over.set()

        clock.call_at(clock.now_s(), again)
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert runner.run(run()) >= 50


async def test_a_timer_that_raises_is_reported_and_stops_no_other() -> None:
    def fail() -> None:
        raise ValueError("broken")

    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    clock, over = LoopClock(), asyncio.Event()
    clock.call_at(clock.now_s(), fail)
    clock.call_at(clock.now_s(), over.set)

    async with asyncio.timeout(5.0):
        await over.wait()

    assert [type(error) for error in reported] == [ValueError]


def test_timers_fire_alike_on_a_manual_clock_and_on_the_loops(runner: asyncio.Runner) -> None:
    async def on_the_loops() -> list[str]:
        over = asyncio.Event()
        fired = ask_for_timers(LoopClock(), over.set)
        async with asyncio.timeout(5.0):
            await over.wait()
        return fired

    def on_a_manual_one() -> list[str]:
        clock = ManualClock(100.0)
        fired = ask_for_timers(clock, lambda: None)
        assert fired == [], "nothing fires while it is asked for"
        clock.advance(0.1)
        return fired

    expected = ["past", "now", "now again", "first", "second", "asked for by a timer"]
    assert runner.run(on_the_loops()) == on_a_manual_one() == expected


def ask_for_timers(clock: Timers, on_last: Callable[[], None]) -> list[str]:
    """Timers of every kind, the last within 20 ms; what they write as they fire."""
    fired: list[str] = []
    start_s = clock.now_s()

    def at(wait_s: float, name: str) -> Cancellable:
        return clock.call_at(start_s + wait_s, lambda: fired.append(name))

    def ask_again() -> None:
        fired.append("now")
        clock.call_at(start_s + 0.02, end)

    def end() -> None:
        fired.append("asked for by a timer")
        on_last()

    at(0.01, "first")
    clock.call_at(start_s, ask_again)
    at(0.01, "second")
    at(0.015, "cancelled").cancel()
    at(0.0, "now again")
    at(-1.0, "past")
    return fired


# LoopWatchdog


class LateClock(ManualClock):
    """A manual clock whose callbacks find it later than asked."""

    late_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.late_s


def test_the_watchdog_measures_lag_and_tells_of_stalls() -> None:
    clock = LateClock()
    watchdog = LoopWatchdog(clock, period_s=0.1)
    stalls: list[float] = []
    watchdog.on_stall(stalls.append, above_s=0.2)

    watchdog.start()
    clock.advance(0.1)
    assert watchdog.last_lag_s == pytest.approx(0.0)
    clock.late_s = 0.5
    clock.advance(0.1)
    assert watchdog.last_lag_s == pytest.approx(0.5)
    assert stalls == [pytest.approx(0.5)]
    clock.late_s = 0.0
    clock.advance(1.0)

    assert watchdog.last_lag_s == pytest.approx(0.0)
    assert watchdog.take_worst_lag_s() == pytest.approx(0.5)
    assert watchdog.take_worst_lag_s() == 0.0
    watchdog.stop()
    assert clock.next_due_s() is None


async def test_a_blocked_loop_shows_in_the_watchdog() -> None:
    async with service_context() as context:
        seen = asyncio.Event()
        context.watchdog.on_stall(lambda _: seen.set(), above_s=0.05)
        time.sleep(0.3)  # the loop is blocked: that is the point

        async with asyncio.timeout(5.0):
            await seen.wait()
        assert context.watchdog.take_worst_lag_s() > 0.05
