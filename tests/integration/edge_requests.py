"""What clients of an edge's API ask and read: paths, a text, the events of a stream. For tests."""

import asyncio
from typing import Any

import orjson

from tests.edge_world import EdgeWorld

TEXT = "to be or not to be, that is the question"
CHAT = "/v1/chat/completions"
TEXTS = "/v1/completions"


async def until_idle(world: EdgeWorld) -> None:
    """Wait until the edge runs nothing."""
    async with asyncio.timeout(30):
        while (await world.client.get("/v1/cluster")).json()["running"]:
            pass


def events_of(body: str) -> list[Any]:
    """The JSON events of a stream that ended as it should."""
    lines = [line for line in body.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [orjson.loads(line.removeprefix("data: ")) for line in lines[:-1]]
