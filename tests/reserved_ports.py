"""Ports for servers of other processes, kept from everybody else until those listen."""

import socket
from contextlib import ExitStack
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"


class ReservedPorts:
    """Free ports, no two alike, which nobody gets by chance as long as this is open.

    Each is held by a socket that is bound and never listens. A server that asks for the address to
    be reused, as asyncio's, uvicorn's, Docker's and the broker's do, may listen there all the same,
    again and again; who asks for any free port, for a server or for the near end of a connection,
    gets another one.
    """

    def __init__(self) -> None:
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def another(self) -> int:
        """One more port."""
        holder = self._held.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        number: int = holder.getsockname()[1]
        return number
