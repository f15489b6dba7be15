"""What every request passes before its route: the API key, a bound on its body, and an id.

Plain ASGI: a wrapper that reads bodies would hide a client's leaving from the routes.
"""

import hashlib
import hmac
import re
import secrets
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specedge_edge.openai.errors import INTERNAL, MISSING_KEY

# What computes, or tells about the edge; the page, the version and the probes are for anybody.
GUARDED: Final = ("/v1", "/tokenize", "/detokenize")
MAX_BODY_BYTES: Final = 16 * 2**20
REQUEST_ID: Final = "x-request-id"
SPEAKABLE_ID: Final = re.compile(r"^[\x21-\x7e]{1,128}$")

_log = structlog.get_logger("specedge.edge")


class ApiKeyGate:
    """Lets requests to ``GUARDED`` paths and below through that show one of the keys; without keys,
    all."""

    def __init__(self, app: ASGIApp, keys: frozenset[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if self._is_guarded(scope) and not self._is_known(Headers(scope=scope)):
            response = MISSING_KEY.response()
            response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_guarded(self, scope: Scope) -> bool:
        if scope["type"] != "http" or not self._digests or scope["method"] == "OPTIONS":
            return False
        path: str = scope["path"]
        return any(path == guarded or path.startswith(guarded + "/") for guarded in GUARDED)

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        shown = _digest(key.strip().encode("latin-1"))  # what came, byte by byte
        # All are compared, in constant time: how long it takes says nothing about any key.
        matches = [hmac.compare_digest(shown, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


class BodyLimit:
    """Refuses bodies over ``max_bytes``: no more of one is ever held."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0

        async def receive_bounded() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise HTTPException(413, f"the body is over {self._max_bytes} bytes")
            return message

        await self._app(scope, receive_bounded, send)


class BugGate:
    """Answers for a route that broke, with a request's id and what browsers ask for, which gates
    outside of it add. An answer that has begun breaks off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception:
            if has_begun or scope["type"] != "http":
                raise
            _log.exception("request_failed")
            await INTERNAL.response()(scope, receive, send)


class RequestIds:
    """Gives every request an id, the caller's own if it sent a speakable one; it is in the answer's
    headers and in every log line on the way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if SPEAKABLE_ID.match(given) else secrets.token_hex(16)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"])[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
