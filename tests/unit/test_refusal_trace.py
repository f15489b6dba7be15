"""What refused requests leave behind, and how little a flood of them does."""

from collections import Counter
from typing import Any

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from specedge.clock import ManualClock
from specedge_edge.openai.gates import RequestIds
from specedge_edge.openai.refusals import MINUTE_S, RefusalTrace


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    """With the status that is the path's end."""
    await Response(status_code=int(scope["path"].rpartition("/")[2]))(scope, receive, send)


class Traced:
    """A service behind the trace, and a client of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.counts: Counter[int] = Counter()
        trace = RefusalTrace(
            RequestIds(answers),
            count=lambda status: self.counts.update([status]),
            now_s=self.clock.now_s,
            probes={"/ready/503"},
        )
        self._transport = httpx.ASGITransport(trace)

    async def ask(self, *paths: str) -> list[Any]:
        """The lines that requests leave."""
        with capture_logs() as logs:
            async with httpx.AsyncClient(
                transport=self._transport, base_url="http://example"
            ) as client:
                for path in paths:
                    await client.get(path, headers={"x-request-id": "abc"})
        return logs


async def test_a_refusal_is_worth_a_line_and_a_fault_of_ours_a_warning() -> None:
    lines = await Traced().ask("/v1/200", "/v1/404?key=hush", "/v1/500")

    assert [(line["status"], line["log_level"]) for line in lines] == [
        (404, "info"),
        (500, "warning"),
    ]
    assert lines[0]["path"] == "/v1/404"
    assert lines[0]["request_id"] == "abc"
    assert "hush" not in str(lines)


async def test_a_flood_of_one_kind_leaves_a_few_lines_and_hides_no_other_kind() -> None:
    traced = Traced()

    lines = await traced.ask(*["/429"] * 100, "/404")

    assert [line["so_far"] for line in lines] == [1, 2, 4, 8, 16, 32, 64, 1]
    assert lines[-1]["status"] == 404
    assert traced.counts == {429: 100, 404: 1}


async def test_every_minute_begins_anew() -> None:
    traced = Traced()
    await traced.ask(*["/429"] * 5)

    traced.clock.advance(MINUTE_S)

    assert [line["so_far"] for line in await traced.ask("/429")] == [1]


async def test_answers_to_probes_refuse_nobody() -> None:
    traced = Traced()

    assert await traced.ask("/ready/503") == []
    assert traced.counts == {}


async def test_a_line_is_short_however_long_the_path() -> None:
    (line,) = await Traced().ask(f"/{'x' * 5000}/404")

    assert len(line["path"]) <= 200
