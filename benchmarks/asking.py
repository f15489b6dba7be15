"""Streams completions from an edge, noting when each piece came. Blocking.

Who asks has a client of its own, made before any clock runs: that takes a round's time.
"""

import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any, Final

import httpx

TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Timed:
    """One streamed completion.

    arrived_s  seconds from the request to each piece of text
    pieces     token ids of each piece, where they were asked for; else empty tuples
    """

    arrived_s: tuple[float, ...]
    pieces: tuple[tuple[int, ...], ...]
    metrics: dict[str, Any]
    usage: dict[str, Any]

    @property
    def gaps_ms(self) -> list[float]:
        """Milliseconds between pieces: with one piece a round, how long rounds take."""
        return [1000 * (later - earlier) for earlier, later in pairwise(self.arrived_s)]

    @property
    def tokens(self) -> tuple[int, ...]:
        """All token ids."""
        return tuple(token for piece in self.pieces for token in piece)

    @property
    def decoding(self) -> tuple[int, float]:
        """What came after the first piece: how many tokens, in how many seconds."""
        if len(self.arrived_s) < 2:
            return 0, 0.0
        tokens = sum(len(piece) for piece in self.pieces[1:])
        return tokens, self.arrived_s[-1] - self.arrived_s[0]


@dataclass(frozen=True, slots=True)
class AllTimed:
    """Completions in the order of their requests, and how long all of them took together."""

    timed: list[Timed]
    wall_s: float


def new_client() -> httpx.Client:
    """For one asker, whose requests it keeps a connection for. To be closed."""
    return httpx.Client(timeout=TIMEOUT_S, trust_env=False)


def stream(client: httpx.Client, base_url: str, request: dict[str, Any]) -> Timed:
    """POST /completions, or /chat/completions for a request with messages; streaming, with usage.
    ``base_url`` ends in /v1."""
    path = "chat/completions" if "messages" in request else "completions"
    body = {**request, "stream": True, "stream_options": {"include_usage": True}}
    arrived: list[float] = []
    pieces: list[tuple[int, ...]] = []
    last: dict[str, Any] = {}
    started_s = time.monotonic()
    with client.stream("POST", f"{base_url}/{path}", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"the answer broke off: {event['error']}")
            said = [choice for choice in event.get("choices", ()) if _says_something(choice)]
            if said:
                arrived.append(time.monotonic() - started_s)
                pieces.append(tuple(t for choice in said for t in choice.get("token_ids") or ()))
            if event.get("usage"):
                last = event
    return Timed(tuple(arrived), tuple(pieces), last.get("metrics") or {}, last.get("usage") or {})


def stream_all(
    base_urls: Sequence[str], requests: Sequence[dict[str, Any]], *, num_streams: int
) -> AllTimed:
    """All requests, in order, ``num_streams`` of them under way at a time. Stream i asks the i-th
    of ``base_urls``, in turn if there are fewer. Raises what the first failed one raised."""
    waiting: SimpleQueue[tuple[int, dict[str, Any]]] = SimpleQueue()
    for entry in enumerate(requests):
        waiting.put(entry)
    answers: dict[int, Timed] = {}

    def work(client: httpx.Client, base_url: str) -> None:
        with suppress(Empty):
            while True:
                number, request = waiting.get_nowait()
                answers[number] = stream(client, base_url, request)

    with ExitStack() as stack:
        clients = [stack.enter_context(new_client()) for _ in range(num_streams)]
        urls = itertools.islice(itertools.cycle(base_urls), num_streams)
        begin_s = time.monotonic()
        with ThreadPoolExecutor(max_workers=num_streams) as pool:
            for ended in [pool.submit(work, *each) for each in zip(clients, urls, strict=True)]:
                ended.result()
        wall_s = time.monotonic() - begin_s
    return AllTimed([answers[number] for number in range(len(requests))], wall_s)


def _says_something(choice: dict[str, Any]) -> bool:
    text = choice.get("text") or (choice.get("delta") or {}).get("content")
    return bool(text or choice.get("token_ids"))
