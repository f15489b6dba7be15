"""Loading as a service tells of it, and the probe that containers ask with."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from specedge.service import probe
from specedge.service.compute import ComputeThread
from specedge.service.health import HealthState, service_routes
from specedge.service.http import serve_http
from specedge.service.loading import LoadingStopped, LoadingWatch
from specedge.service.metrics import ServiceMetrics
from specedge.service.runtime import ServiceContext, service_context


@pytest.fixture
async def context() -> AsyncIterator[ServiceContext]:
    async with service_context() as made:
        yield made


async def test_health_and_log_are_told_how_far_loading_is(
    context: ServiceContext, compute: ComputeThread
) -> None:
    health = HealthState()

    def load(watch: LoadingWatch) -> None:
        for phase, fraction in (("download", 0.0), ("download", 0.5), ("convert", 0.25)):
            watch(phase, fraction)

    with capture_logs() as logs:
        await compute.run(load, LoadingWatch(context, health))
        await asyncio.sleep(0)

    assert (health.phase, health.percent) == ("convert", 25.0)
    # Once for each phase; within one, only now and then.
    assert [(line["phase"], line["percent"]) for line in logs] == [("download", 0), ("convert", 25)]


async def test_a_drain_ends_loading_at_its_next_word(
    context: ServiceContext, compute: ComputeThread
) -> None:
    has_begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    may_go_on = threading.Event()

    def load(watch: LoadingWatch) -> str:
        watch("download", 0.0)
        loop.call_soon_threadsafe(has_begun.set)
        may_go_on.wait(10)
        watch("download", 0.1)
        return "loaded"

    loading = compute.start(load, LoadingWatch(context, HealthState()))
    await has_begun.wait()
    context.begin_drain()
    may_go_on.set()

    with pytest.raises(LoadingStopped, match="download"):
        await loading


async def test_the_probe_fails_until_the_service_is_ready(
    context: ServiceContext, capsys: pytest.CaptureFixture[str]
) -> None:
    health = HealthState()
    routes = service_routes(health, ServiceMetrics("test"), context.watchdog)
    server = await serve_http(
        Starlette(routes=routes), host="127.0.0.1", port=0, tasks=context.tasks
    )
    port = server.url.rsplit(":", 1)[1]

    health.loading("download", 0.4)
    before = await asyncio.to_thread(probe.main, [port])
    said_before = json.loads(capsys.readouterr().out.splitlines()[-1])
    health.loaded()
    after = await asyncio.to_thread(probe.main, [port])
    live = await asyncio.to_thread(probe.main, [port, "/live"])
    await server.close()

    assert (before, after, live) == (1, 0, 0)
    assert (said_before["phase"], said_before["percent"]) == ("download", 40.0)


def test_the_probe_says_that_nobody_answers(
    nobodys_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe.main([str(nobodys_port)]) == 1
    assert f"no answer on port {nobodys_port}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["ready"], ["1", "2", "3"]])
def test_the_probe_takes_a_port_and_a_path(arguments: list[str]) -> None:
    assert probe.main(arguments) == 2
