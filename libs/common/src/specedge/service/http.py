"""An HTTP server inside a service's own loop, tasks and signals."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from specedge.errors import InvalidRequest
from specedge.service.runtime import Tasks

GRACE_S: Final = 5
CUT_OFF_S: Final = 1.0
BACKLOG: Final = 2048

_log = structlog.get_logger("specedge.service")


class HttpServer:
    """A server that listens. Made by ``serve_http``."""

    def __init__(self, server: "_Server", task: asyncio.Task[None], host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._server = server
        self._task = task

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def close(self) -> None:
        """Stop listening, let requests end for some seconds, cut off the rest. Idempotent."""
        self._server.should_exit = True
        await asyncio.wait([self._task])


async def serve_http(
    app: ASGIApp, *, host: str, port: int, tasks: Tasks, grace_s: int = GRACE_S
) -> HttpServer:
    """Serve ``app``; return when it listens. Port 0 takes a free one: see ``HttpServer.port``.

    The server runs in ``tasks``: when they end, so does it. It handles no signals and no lifespan.
    Raises InvalidRequest when the address cannot be had.
    """
    listener = _bind(host, port)
    bound_port = listener.getsockname()[1]
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=grace_s,
    )
    server = _Server(config)
    task = tasks.start(_run(server, listener), name=f"http {bound_port}")
    await server.listening.wait()
    _log.info("http_listening", host=host, port=bound_port)
    return HttpServer(server, task, host, bound_port)


class _Server(uvicorn.Server):
    """uvicorn's server that leaves signals alone and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The service's frame handles them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As in the base class."""
        await super().startup(sockets)
        self.listening.set()

    async def cut_off(self) -> None:
        """End everything at once: requests are cancelled, connections aborted."""
        for server in self.servers if self.listening.is_set() else ():
            server.close()
        requests = set(self.server_state.tasks)
        for request in requests:
            request.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if requests:
            await asyncio.wait(requests, timeout=CUT_OFF_S)


async def _run(server: _Server, listener: socket.socket) -> None:
    with contextlib.closing(listener):
        try:
            await server.serve(sockets=[listener])
        except asyncio.CancelledError:
            await server.cut_off()
            raise


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Two may bind, and one of them listens: which of them, is known here and told well.
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise InvalidRequest(
            f"cannot listen on {host}:{port}: {error.strerror}", field="http_port"
        ) from error
    return listener
