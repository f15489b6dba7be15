"""The frame of a service: tasks, timers, the compute thread, and the end by signals."""

import asyncio
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop

from specedge.clock import ManualClock, Timers
from specedge.errors import Busy
from specedge.service.runtime import ComputeThread, LoopClock, Tasks, service_context
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


# ComputeThread


@pytest.fixture
async def compute() -> AsyncIterator[ComputeThread]:
    thread = ComputeThread("compute", max_pending=3)
    yield thread
    await thread.close()


async def test_calls_run_one_after_the_other_on_one_thread_that_is_not_the_loops(
    compute: ComputeThread,
) -> None:
    order: list[int] = []

    def call(number: int, *, factor: int) -> tuple[int, int]:
        order.append(number)
        return number * factor, threading.get_ident()

    results = await asyncio.gather(*(compute.run(call, n, factor=10) for n in range(3)))

    assert [value for value, _ in results] == [0, 10, 20]
    assert order == [0, 1, 2]
    assert {ident for _, ident in results}.isdisjoint({threading.get_ident()})
    assert len({ident for _, ident in results}) == 1


async def test_what_a_call_raises_is_raised(compute: ComputeThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await compute.run(divmod, 1, 0)


async def test_the_loop_turns_while_the_thread_computes(compute: ComputeThread) -> None:
    go_on = threading.Event()

    async with asyncio.timeout(5.0), Tasks() as tasks:
        waiting = tasks.start(compute.run(go_on.wait), name="compute")
        await asyncio.sleep(0)
        go_on.set()

        assert await waiting


async def test_too_many_calls_are_refused_at_once(compute: ComputeThread, tasks: Tasks) -> None:
    go_on = threading.Event()
    running = [tasks.start(compute.run(go_on.wait), name=f"{n}") for n in range(3)]
    await asyncio.sleep(0)

    with pytest.raises(Busy):
        await compute.run(int)
    assert compute.pending == 3
    go_on.set()
    await asyncio.gather(*running)

    assert await compute.run(int) == 0
    assert compute.pending <= 1


async def test_a_farewell_is_never_refused_and_outlives_who_waits_for_it(
    compute: ComputeThread, tasks: Tasks
) -> None:
    go_on = threading.Event()
    running = [tasks.start(compute.run(go_on.wait), name=f"{n}") for n in range(3)]
    await asyncio.sleep(0)
    given_back: list[str] = []

    async def leave() -> None:
        await asyncio.shield(compute.start_farewell(lambda: given_back.append("slot")))

    leaving = tasks.start(leave(), name="leaving")
    await asyncio.sleep(0)
    leaving.cancel()
    go_on.set()
    await asyncio.gather(*running)
    await compute.run(int)

    assert given_back == ["slot"]


async def test_a_cancelled_call_that_has_begun_ends_before_the_next_begins(
    compute: ComputeThread, tasks: Tasks
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        begun.set()
        go_on.wait()
        order.append("first")

    calling = tasks.start(compute.run(first), name="first")
    await asyncio.to_thread(begun.wait)
    never = tasks.start(compute.run(order.append, "never"), name="never")
    await asyncio.sleep(0)
    calling.cancel()
    never.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await compute.run(order.append, "next")

    assert order == ["first", "next"]


async def test_a_closed_thread_takes_no_calls() -> None:
    compute = ComputeThread("compute")
    await compute.close()
    await compute.close()

    with pytest.raises(RuntimeError):
        await compute.run(int)


async def test_idle_work_runs_until_it_is_done(compute: ComputeThread) -> None:
    steps: list[int] = []
    over = threading.Event()

    def step() -> bool:
        steps.append(len(steps))
        if len(steps) == 3:
            over.set()
        return len(steps) < 3

    compute.start_idle(step)
    await asyncio.to_thread(over.wait)
    await compute.run(int)

    assert steps == [0, 1, 2]


async def test_a_call_waits_for_no_more_than_one_idle_step_however_many_works_there_are(
    compute: ComputeThread,
) -> None:
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def step(name: str) -> bool:
        order.append(name)
        begun.set()
        go_on.wait()
        return len(order) < 9

    for name in "ab":
        compute.start_idle(functools.partial(step, name))
    await asyncio.to_thread(begun.wait)
    calls = [compute.start(order.append, name) for name in "12"]
    go_on.set()
    await asyncio.gather(*calls)

    assert order[:3] == ["a", "1", "2"]


async def test_idle_works_take_turns(compute: ComputeThread) -> None:
    order: list[str] = []
    over = threading.Event()

    def step(name: str) -> bool:
        order.append(name)
        if len(order) == 6:
            over.set()
        return len(order) < 5

    both = threading.Event()
    held = compute.start(both.wait)
    for name in "ab":
        compute.start_idle(functools.partial(step, name))
    both.set()
    await held
    await asyncio.to_thread(over.wait)

    assert order == ["a", "b"] * 3


async def test_stopped_idle_work_begins_no_step(compute: ComputeThread) -> None:
    steps: list[int] = []
    holding = threading.Event()
    held = compute.start(holding.wait)

    work = compute.start_idle(lambda: steps.append(1) is None)
    work.stop()
    holding.set()
    await held
    await compute.run(int)

    assert work.is_stopped and not steps


async def test_a_call_withdrawn_before_it_began_does_not_keep_idle_work_waiting(
    compute: ComputeThread,
) -> None:
    holding, stepped = threading.Event(), threading.Event()
    held = compute.start(holding.wait)
    compute.start(int).cancel()
    await asyncio.sleep(0)

    compute.start_idle(lambda: bool(stepped.set()))
    holding.set()
    await held

    assert await asyncio.to_thread(stepped.wait, 5.0)


async def test_idle_work_that_fails_is_reported_and_ends(compute: ComputeThread) -> None:
    reported: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.set_result(context["exception"])
    )

    compute.start_idle(lambda: bool(1 // 0))

    async with asyncio.timeout(5.0):
        assert isinstance(await reported, ZeroDivisionError)
    assert await compute.run(int) == 0


async def test_closing_ends_idle_work() -> None:
    compute = ComputeThread("compute")
    begun = threading.Event()

    compute.start_idle(lambda: begun.set() is None)
    await asyncio.to_thread(begun.wait)

    async with asyncio.timeout(5.0):
        await compute.close()
    with pytest.raises(RuntimeError):
        compute.start_idle(lambda: False)


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


def test_a_manual_clock_and_the_loops_clock_are_the_same_port() -> None:
    def takes(_: Callable[[], Timers]) -> None: ...

    takes(LoopClock)
    takes(ManualClock)


# run_service


def start_service(body: str) -> "subprocess.Popen[str]":
    program = """
        import asyncio, sys
        from specedge.service.runtime import run_service
        from specedge.errors import AuthenticationFailed

        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                print("task ended", flush=True)

        async def main(context):
            context.on_drain(lambda: print("draining", flush=True))
            context.tasks.start(forever(), name="forever")
            await asyncio.sleep(0)
            print(type(asyncio.get_running_loop()).__module__, flush=True)
        BODY
        sys.exit(run_service(main))
    """
    text = textwrap.dedent(program).replace("BODY", textwrap.indent(textwrap.dedent(body), "    "))
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, list[str], str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out.splitlines(), err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number: signal.Signals) -> None:
    process = start_service("await context.drain.wait()\nprint('drained', flush=True)")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("uvloop")

    process.send_signal(number)

    code, lines, _ = finish(process)
    assert code == 0
    assert [line for line in lines if "drain_started" not in line] == [
        "draining",
        "drained",
        "task ended",
    ]


def test_the_second_signal_stops_at_once() -> None:
    process = start_service("await asyncio.Event().wait()")
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(signal.SIGTERM)
    while "draining" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)

    code, lines, _ = finish(process)
    assert code == 128 + signal.SIGTERM
    assert lines[-1] == "task ended"


def test_a_service_that_returns_ends_with_success_and_no_task() -> None:
    code, lines, err = finish(start_service("return"))

    assert code == 0
    assert lines[-1] == "task ended"
    assert err == ""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise AuthenticationFailed('ask for a new key')", "ask for a new key"),
        ("context.tasks.start(asyncio.to_thread(int, 'x'), name='x')\n"
         "await asyncio.Event().wait()", "ValueError"),
    ],
    ids=["main", "task"],
)  # fmt: skip
def test_a_service_that_fails_says_why_and_ends_with_failure(body: str, said: str) -> None:
    code, lines, _ = finish(start_service(body))

    assert code == 1
    assert said in "\n".join(lines)
