"""The real edge before the real scheduler and verifiers, on emulated engines, in one process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from specedge.credentials.nkey import UserKey
from specedge.engine.emulated import EmulatedText, emulated_continuation
from specedge.ids import EdgeId
from specedge.link.base import Link
from specedge.link.memory import WireProfile
from specedge.params import SamplingParams, StopRule
from specedge.protocol.subjects import edge_inbox
from specedge.service.runtime import service_context
from specedge_edge.app import Edge, Loader
from specedge_edge.config import EdgeSettings
from specedge_edge.emulated_tokenizer import EMULATED_MODEL, EmulatedTokenizer
from specedge_edge.loading import load
from tests.integration.cloud_world import Cloud

PERFECT = WireProfile()
PROMPT = "to be or not to be, to be or not"
PROMPT_IDS = EmulatedTokenizer(EmulatedText()).encode(PROMPT)
COMPLETIONS = "/v1/completions"


@asynccontextmanager
async def edge_on(
    world: Cloud,
    folder: Path,
    *,
    wire: WireProfile = PERFECT,
    loader: Loader = load,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """An edge of that cloud, and a client of it."""

    async def connect(key: UserKey) -> Link:
        inbox = edge_inbox(EdgeId(key.public_key))
        return world.hub.link("edge", wire, inbox_prefix=inbox)

    values = {"http_port": 0, "model": EMULATED_MODEL, "cache_dir": folder, **settings}
    chosen = EdgeSettings(**values)
    async with service_context() as context, Edge(context, chosen, loader) as edge:
        await edge.serve()
        await edge.load(connect)
        async with httpx.AsyncClient(base_url=edge.url, trust_env=False, timeout=60) as client:
            yield client


def expected(max_tokens: int, params: SamplingParams | None = None) -> list[int]:
    """The plain decoder's tokens."""
    stop = StopRule(frozenset(EmulatedText().identity().stop_ids), max_tokens)
    return emulated_continuation(PROMPT_IDS, stop, params)


def request(max_tokens: int, **fields: Any) -> dict[str, Any]:
    base = {"prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0}
    return {**base, "return_token_ids": True, **fields}


async def persist(client: httpx.AsyncClient, max_tokens: int) -> httpx.Response:
    """Ask until there was a place: on a bad network opening a session may fail."""
    while (answer := await client.post(COMPLETIONS, json=request(max_tokens))).status_code == 503:
        pass
    return answer
