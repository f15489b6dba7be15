"""Asking of benchmarks: what is timed is the answer, and nobody asks what others are timed on."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks import asking
from benchmarks.bench_system import Cloud, Link
from benchmarks.columns import Column, Observed, Setting
from benchmarks.compared_systems import Asked, Systems
from benchmarks.comparison import Comparison
from benchmarks.pinned import ANY, Cores
from benchmarks.plan import Plan
from benchmarks.prompt_set import Prompt
from benchmarks.scrape import Reading

CLIENT_S = 100.0  # that a client takes to make


class Edge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        said = {"choices": [{"text": "a", "token_ids": [1]}], "usage": {"completion_tokens": 1}}
        body = f"data: {json.dumps(said)}\n\ndata: [DONE]\n\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Edge) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


class Clock:
    """Stands still but where a client is made."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_making_clients_is_in_no_time_that_is_measured(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, made = Clock(), []

    class Slow(httpx.Client):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type]
            made.append(self)
            clock.now_s += CLIENT_S

    monkeypatch.setattr(asking, "time", clock)
    monkeypatch.setattr(asking.httpx, "Client", Slow)

    seen = asking.stream_all([base_url], [{"prompt": "x"}] * 5, num_streams=2)

    assert [each.tokens for each in seen.timed] == [(1,)] * 5
    assert (seen.wall_s, {each.arrived_s for each in seen.timed}) == (0.0, {(0.0,)})
    assert len(made) == 2 and all(client.is_closed for client in made)


class Rooms(Systems):
    """Systems without processes: each edge that is started is another."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, Cores(ANY, ANY), Path())
        self._num_started = 0

    @contextlib.asynccontextmanager
    async def plain_cloud(self) -> AsyncIterator[Cloud]:
        nobody: asyncio.subprocess.Process = None  # type: ignore[assignment]
        yield Cloud(Link(nobody, 0), "", Cores(ANY, ANY), Path())

    @contextlib.asynccontextmanager
    async def hosted(self, where: Cloud, name: str = "hosted") -> AsyncIterator[Asked]:
        self._num_started += 1
        yield Asked(where, (f"{name}-{self._num_started}",))

    @contextlib.asynccontextmanager
    async def drafting(
        self, where: Cloud, name: str, count: int, setting: Setting, *, proactive: bool
    ) -> AsyncIterator[Asked]:
        self._num_started += 1
        yield Asked(where, tuple(f"{name}-{self._num_started}-{n}" for n in range(count)))

    @contextlib.asynccontextmanager
    async def server_only(self, setting: Setting) -> AsyncIterator[Asked]:
        async with self.plain_cloud() as where, self.hosted(where) as asked:
            yield asked


class Watched(Comparison):
    """Remembers which edge was asked for answers of which length."""

    def __init__(self, plan: Plan, systems: Systems) -> None:
        super().__init__(plan, systems)
        self.lengths: dict[str, set[int]] = {}

    async def _observe(
        self, asked: Asked, column: Column, prompts: Sequence[Prompt], max_tokens: int
    ) -> Observed:
        for edge in asked.edges:
            self.lengths.setdefault(edge, set()).add(max_tokens)
        timed = asking.Timed((0.1, 0.2), ((1,), (2,)), {}, {"completion_tokens": 2})
        busy = Reading({"specedge_verifier_busy_seconds_total": 1.0}, {})
        return Observed([timed] * len(prompts), 1.0, busy, Reading({}, {}), 0.0)


async def test_no_edge_that_a_column_asks_was_asked_the_prompts_before() -> None:
    plan = Plan(
        model="emulated",
        drafter="emulated",
        prompts=tuple(Prompt(str(n), "chat", f"{n}?") for n in range(4)),
        max_tokens=8,
        temperature=0.0,
        streams=(1, 2),
        delays_ms=(0.0, 14.0),
        sweep=(Setting(2, 5),),
        sweep_prompts=2,
        sweep_tokens=4,
    )
    comparison = Watched(plan, Rooms(plan))

    await comparison.run()

    lengths = comparison.lengths
    assert [edge for edge, asked in lengths.items() if 1 in asked and len(asked) > 1] == []
    assert sum(asked == {1} for asked in lengths.values()) == 2 * len(plan.streams)
