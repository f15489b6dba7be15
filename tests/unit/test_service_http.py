"""What a service tells over HTTP and in its log: alive, ready, metrics, and where it listens."""

import asyncio
import io
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import orjson
import pytest
import structlog
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from specedge import __version__
from specedge.clock import ManualClock
from specedge.errors import InvalidRequest
from specedge.link.memory import MemoryHub
from specedge.service.health import HealthState, service_routes
from specedge.service.http import serve_http
from specedge.service.logging import configure_logging
from specedge.service.metrics import ServiceMetrics
from specedge.service.runtime import Tasks
from specedge.service.watchdog import LoopWatchdog
from tests.reserved_ports import LOOPBACK, ReservedPorts


class Service:
    """The HTTP side of a service that does nothing."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.health = HealthState()
        self.metrics = ServiceMetrics("example")
        self.watchdog = LoopWatchdog(self.clock)
        self.watchdog.start()
        self.app = Starlette(routes=service_routes(self.health, self.metrics, self.watchdog))
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://example")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    async with made.client:
        yield made


async def test_a_service_is_not_ready_while_it_loads_and_says_how_far_it_is(
    service: Service,
) -> None:
    service.health.loading("fetching the model", 0.25)

    response = await service.client.get("/ready")

    assert response.status_code == 503
    assert response.json() == {
        "status": "not ready",
        "phase": "fetching the model",
        "percent": 25.0,
        "reasons": ["loading: fetching the model"],
    }


async def test_a_loaded_service_is_ready_as_long_as_its_needs_are_met(service: Service) -> None:
    service.health.loaded()
    missing: list[str] = []
    service.health.need("verifiers", lambda: missing[0] if missing else None)

    assert (await service.client.get("/ready")).status_code == 200
    missing.append("no verifier")
    response = await service.client.get("/ready")

    assert response.status_code == 503
    assert response.json()["reasons"] == ["no verifier"]


async def test_a_service_has_started_once_it_is_loaded_whatever_comes_after(
    service: Service,
) -> None:
    service.health.loading("fetching the model", 0.25)
    before = await service.client.get("/started")

    service.health.loaded()
    service.health.need("link", lambda: "no broker")
    service.health.start_draining()
    after = await service.client.get("/started")

    assert (before.status_code, after.status_code) == (503, 200)
    assert before.json() == {"status": "starting", "phase": "fetching the model", "percent": 25.0}


async def test_a_draining_service_is_alive_and_not_ready(service: Service) -> None:
    service.health.loaded()
    service.health.start_draining()

    ready, live = await service.client.get("/ready"), await service.client.get("/live")

    assert (ready.status_code, live.status_code) == (503, 200)
    assert ready.json()["reasons"] == ["draining"]


@pytest.mark.parametrize("path", ["/live", "/health"])
async def test_a_loop_that_does_not_tick_is_not_alive(service: Service, path: str) -> None:
    assert (await service.client.get(path)).status_code == 200
    service.watchdog.stop()
    service.clock.advance(60.0)

    response = await service.client.get(path)

    assert response.status_code == 503
    assert "stuck" in response.json()["reason"]


async def test_metrics_tell_of_build_process_loop_link_and_of_the_services_own(
    service: Service,
) -> None:
    link = MemoryHub(service.clock).link("one")
    service.metrics.watch_link(link)
    service.metrics.watch_loop(service.watchdog)
    own = Counter("specedge_examples", "Examples.", registry=service.metrics.registry)
    own.inc(3)
    await link.publish("a", b"123")
    link.cut()
    link.restore()

    response = await service.client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    build = ("specedge_build_info", ("service", "example"), ("version", __version__))
    assert samples[build] == 1
    assert samples["specedge_nats_messages_total", ("direction", "out")] == 1
    assert samples["specedge_nats_message_bytes_total", ("direction", "out")] == 3
    assert samples["specedge_nats_reconnects_total",] == 1
    assert samples["specedge_nats_connected",] == 1
    assert samples["specedge_nats_errors_total", ("kind", "refused_out")] == 0
    assert samples["specedge_event_loop_lag_seconds",] == 0
    assert samples["specedge_examples_total",] == 3
    assert ("process_cpu_seconds_total",) in samples


async def test_port_zero_takes_a_free_port_and_tells_which(tasks: Tasks) -> None:
    async def hello(_: Request) -> Response:
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/", hello)])
    first = await serve_http(app, host="127.0.0.1", port=0, tasks=tasks)
    second = await serve_http(app, host="127.0.0.1", port=0, tasks=tasks)

    assert first.port != second.port
    async with httpx.AsyncClient() as client:
        for server in (first, second):
            assert (await client.get(server.url)).text == "hello"
    await first.close()
    await first.close()
    await second.close()


async def test_closing_lets_a_request_end(tasks: Tasks) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        arrived.set()
        await go_on.wait()
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", slow)])
    server = await serve_http(app, host="127.0.0.1", port=0, tasks=tasks)
    async with httpx.AsyncClient() as client:
        asking = tasks.start(client.get(server.url), name="ask")
        await arrived.wait()
        closing = tasks.start(server.close(), name="close")
        await asyncio.sleep(0)
        go_on.set()

        assert (await asking).text == "done"
        await closing
        with pytest.raises(httpx.ConnectError):
            await client.get(server.url)


async def test_the_end_of_its_tasks_cuts_off_requests_and_frees_the_port() -> None:
    arrived = asyncio.Event()

    async def hang(_: Request) -> Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def ask(client: httpx.AsyncClient, url: str) -> None:
        with pytest.raises(httpx.TransportError):
            await client.get(url)

    app = Starlette(routes=[Route("/", hang)])
    async with httpx.AsyncClient() as client, Tasks() as asking:
        async with Tasks() as tasks:
            server = await serve_http(app, host="127.0.0.1", port=0, tasks=tasks)
            answer = asking.start(ask(client, server.url), name="ask")
            await arrived.wait()

        async with asyncio.timeout(5.0):
            await answer
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))


async def test_a_port_that_is_bound_and_free_to_reuse_is_listened_on_by_one_only(
    tasks: Tasks,
) -> None:
    with ReservedPorts() as free:
        port = free.another()
        server = await serve_http(Starlette(), host=LOOPBACK, port=port, tasks=tasks)

        with pytest.raises(InvalidRequest, match=str(port)):
            await serve_http(Starlette(), host=LOOPBACK, port=port, tasks=tasks)
        await server.close()
        again = await serve_http(Starlette(), host=LOOPBACK, port=port, tasks=tasks)

    assert again.port == port


async def test_a_taken_port_is_named(tasks: Tasks) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(InvalidRequest, match=str(port)) as refusal:
            await serve_http(Starlette(), host="127.0.0.1", port=port, tasks=tasks)

    assert refusal.value.field == "http_port"


# Logs


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield io.StringIO()
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_logs_are_json_with_the_services_name_where_no_person_reads(log: io.StringIO) -> None:
    configure_logging("example", stream=log)

    structlog.get_logger("specedge.example").info("thing_done", count=3)
    logging.getLogger("somebody.else").warning("said %s", "this")
    structlog.get_logger("specedge.example").debug("not_shown")

    first, second = [orjson.loads(line) for line in log.getvalue().splitlines()]
    assert (first["event"], first["count"], first["level"]) == ("thing_done", 3, "info")
    assert (first["service"], first["logger"]) == ("example", "specedge.example")
    assert (second["event"], second["service"]) == ("said this", "example")
    assert first["timestamp"].endswith("Z")


def test_an_error_is_logged_on_one_line_with_its_traceback(log: io.StringIO) -> None:
    configure_logging("example", stream=log)

    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger().error("thing_failed", exc_info=error)

    (line,) = [orjson.loads(text) for text in log.getvalue().splitlines()]
    assert "ValueError: broken" in line["exception"]


def test_the_level_decides_and_text_is_for_people(log: io.StringIO) -> None:
    configure_logging("example", level="debug", log_format="text", stream=log)

    structlog.get_logger().debug("thing_seen", size=3)

    assert "thing_seen" in log.getvalue()
    assert not log.getvalue().startswith("{")
    assert "\x1b" not in log.getvalue()  # colours are for terminals
