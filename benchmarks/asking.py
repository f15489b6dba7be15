"""Streams completions from an edge, noting when each piece came. Blocking."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Timed:
    """One streamed completion.

    arrived_s  seconds from the request to each piece of text
    """

    arrived_s: tuple[float, ...]
    metrics: dict[str, Any]
    usage: dict[str, Any]

    @property
    def gaps_ms(self) -> list[float]:
        """Milliseconds between pieces: with one piece a round, how long rounds take."""
        return [
            1000 * (later - earlier)
            for earlier, later in zip(self.arrived_s, self.arrived_s[1:], strict=False)
        ]


def stream(base_url: str, request: dict[str, Any]) -> Timed:
    """POST /completions, streaming, usage included. ``base_url`` ends in /v1."""
    body = {**request, "stream": True, "stream_options": {"include_usage": True}}
    arrived: list[float] = []
    last: dict[str, Any] = {}
    started_s = time.monotonic()
    with (
        httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client,
        client.stream("POST", f"{base_url}/completions", json=body) as response,
    ):
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if any(choice.get("text") for choice in event.get("choices", ())):
                arrived.append(time.monotonic() - started_s)
            if event.get("usage"):
                last = event
    return Timed(tuple(arrived), last.get("metrics") or {}, last.get("usage") or {})
