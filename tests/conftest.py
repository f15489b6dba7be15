"""Fixtures that any test may use: a real broker, background tasks, and a watch over tasks left."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from specedge.link.broker import Broker
from specedge.service.runtime import Tasks
from tests.reserved_ports import ReservedPorts

# A property says nothing of how quick a machine is that others use too.
settings.register_profile(
    "any-machine",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def _nothing_left_running(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_no_task_left")


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    """Every asynchronous test: when it and its fixtures are over, no task may be left pending."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # cancelled ones need a turn or two to end
        _, left = await asyncio.wait(left, timeout=10.0)
    assert not left, f"tasks left running: {[task.get_name() for task in left]}"


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """Background tasks. What still runs at the test's end is cancelled; what failed fails it."""
    async with Tasks() as group:
        yield group


@pytest.fixture
def nobodys_port() -> Iterator[int]:
    """A port on which nobody listens during the test, not even by chance, but whom the test has
    listen there."""
    with ReservedPorts() as free:
        yield free.another()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real nats-server that all tests of a session share: use subjects of your own.

    A test that stops or stalls its broker starts one for itself. The broker's log is read on a
    loop of its own, since the tests' loops come and go.
    """
    url: Future[str] = Future()
    over = threading.Event()
    store_dir = tmp_path_factory.mktemp("broker")
    thread = threading.Thread(target=_keep_broker, args=(store_dir, url, over), name="broker")
    thread.start()
    try:
        yield url.result()
    finally:
        over.set()
        thread.join()


def _keep_broker(store_dir: Path, url: "Future[str]", over: threading.Event) -> None:
    async def keep() -> None:
        try:
            async with Broker(store_dir=store_dir) as broker:
                url.set_result(broker.url)
                await asyncio.to_thread(over.wait)
        except BaseException as error:
            if not url.done():
                url.set_exception(error)
            raise

    asyncio.run(keep())
