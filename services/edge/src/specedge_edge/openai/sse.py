"""Server-sent events as bytes. Knows the framing, not what is said.

An event is one ``data:`` line; a comment keeps proxies from closing an idle connection.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would otherwise collect events before passing them on
}


def json_bytes(body: Mapping[str, Any]) -> bytes:
    """A body as JSON."""
    return orjson.dumps(body)


def event(body: Mapping[str, Any]) -> bytes:
    """One event. JSON holds no raw newlines, so one line is enough."""
    return b"data: " + json_bytes(body) + b"\n\n"
