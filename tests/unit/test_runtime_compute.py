"""The frame of a service: the compute thread, its calls and its idle work."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator

import pytest

from specedge.errors import Busy
from specedge.service.runtime import ComputeThread, Tasks


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
