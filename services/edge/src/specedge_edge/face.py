"""Puts the edge's HTTP face together: OpenAI routes, chat page, health, gates, error shapes."""

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from specedge import __version__
from specedge.errors import SpecEdgeError
from specedge_edge.openai.errors import ApiError, from_exception, from_validation
from specedge_edge.openai.gates import ApiKeyGate, BodyLimit, BugGate, RequestIds
from specedge_edge.openai.routes import BackendSlot, openai_routes

PAGE: Final = "index.html"
PAGE_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    # The page is one file: nothing from elsewhere may run in it or be called by it.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_face(
    slot: BackendSlot,
    health_routes: Sequence[BaseRoute],
    *,
    api_keys: frozenset[str],
    origins: Sequence[str],
    wall_s: Callable[[], float],
) -> ASGIApp:
    """The ASGI application. Works from the start: what is not loaded yet answers 503."""
    app = FastAPI(title="SpecEdge", version=__version__, redirect_slashes=False)
    app.router.routes.extend(health_routes)
    app.include_router(openai_routes(slot, wall_s))
    page = resources.files("specedge_edge").joinpath("web", PAGE).read_bytes()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def chat_page() -> Response:
        return Response(page, headers=PAGE_HEADERS)

    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(SpecEdgeError, _on_error)
    app.add_middleware(BodyLimit)
    app.add_middleware(ApiKeyGate, keys=api_keys)
    app.add_middleware(BugGate)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "retry-after-ms"],
        )
    app.add_middleware(RequestIds)
    return app


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return from_validation(error).response()


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = f"{str(error.detail)[:200]}: {request.method} {request.url.path[:200]}"
    response = ApiError(error.status_code, told, "invalid_request_error").response()
    response.headers.update(error.headers or {})  # 405 says there what is allowed
    return response


async def _on_error(_: Request, error: Exception) -> Response:
    return from_exception(error).response()
