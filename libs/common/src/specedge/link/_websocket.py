"""NATS over WebSocket with TLS, for homes whose router lets nothing but HTTPS out.

Takes the place of nats-py's own transport, which waits without bound for the peer to close, takes
a time limit for closing as one for connecting, and, while connecting, drops what arrives in one
frame with the line it waits for. Needs the extra ``specedge[websocket]``.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import ParseResult

from specedge.errors import InvalidRequest

if TYPE_CHECKING:
    import aiohttp

END_TIMEOUT_S: Final = 0.5  # for each step of closing that waits for the peer


class WebSocketTransport:
    """See nats-py's ``Transport``. One connection at a time; its end is bounded."""

    def __init__(self) -> None:
        """Raises InvalidRequest where aiohttp is missing."""
        self._aiohttp: Any = _aiohttp()
        self.is_ending = False
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._raw: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._unread = b""
        self._is_over = False

    def __bool__(self) -> bool:
        return True  # else the client would put its own in our place before the first connect

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is up."""
        socket = self._socket
        return socket is not None and socket.get_extra_info("ssl_object") is not None

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        """Refused: a secret would go out in the clear."""
        raise ConnectionRefusedError("WebSocket is spoken with TLS only")

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """Open a connection; asked again once open, as the broker's greeting makes the client do,
        there is nothing left to do. Raises OSError, TimeoutError, or a ClientError of aiohttp."""
        if isinstance(uri, str):
            return
        await self.release()
        self.is_ending = self._is_over = False
        self._unsent, self._unread = [], b""
        self._session = self._aiohttp.ClientSession()
        try:
            async with asyncio.timeout(connect_timeout):
                self._socket = await self._session.ws_connect(
                    uri.geturl(),
                    ssl=ssl_context,
                    max_msg_size=0,  # no bound but the broker's
                    timeout=self._aiohttp.ClientWSTimeout(ws_close=END_TIMEOUT_S),
                )
        except BaseException:
            await self.release()
            raise
        # No public way leads to what can be aborted.
        self._raw = None if self._socket._conn is None else self._socket._conn.transport

    def write(self, payload: bytes) -> None:
        """Into the queue: ``drain`` sends."""
        self._unsent.append(payload)

    def writelines(self, payload: Iterable[bytes]) -> None:
        """Into the queue, in order."""
        self._unsent.extend(payload)

    async def drain(self) -> None:
        """Send what is queued, as one frame. While ending, bounded and silent."""
        if not self.is_ending:
            await self._send()
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._send()

    async def read(self, buffer_size: int) -> bytes:
        """What has arrived; empty at the end."""
        if self._unread:
            arrived, self._unread = self._unread, b""
            return arrived
        return await self._receive()

    async def readline(self) -> bytes:
        """One line, with its end; what arrived behind it stays for the next."""
        while b"\n" not in self._unread and (arrived := await self._receive()):
            self._unread += arrived
        line, end, self._unread = self._unread.partition(b"\n")
        return line + end

    def at_eof(self) -> bool:
        """Whether nothing more will come."""
        return self._is_over and not self._unread

    def close(self) -> None:
        """Begin the end; ``wait_closed`` carries it out."""
        self.is_ending = True

    async def wait_closed(self) -> None:
        """Wait a little for an orderly end, then end without order."""
        if self._socket is not None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._socket.close()
        await self.release()

    def abort(self) -> None:
        """Drop the connection now. Idempotent."""
        if self._raw is not None:
            self._raw.abort()

    async def release(self) -> None:
        """Drop the connection now, and all that belongs to it. Idempotent, does not wait for the
        peer."""
        self.abort()
        session, self._session, self._socket, self._raw = self._session, None, None, None
        if session is not None:
            await session.close()

    async def _send(self) -> None:
        if self._unsent and self._socket is not None:
            frame, self._unsent = b"".join(self._unsent), []
            await self._socket.send_bytes(frame)

    async def _receive(self) -> bytes:
        assert self._socket is not None, "connect first"
        message = await self._socket.receive()
        if message.type is self._aiohttp.WSMsgType.BINARY:
            return bytes(message.data)
        self._is_over = True
        if message.type is self._aiohttp.WSMsgType.ERROR:
            raise ConnectionResetError(str(message.data))
        return b""


def _aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError:
        message = "wss:// needs aiohttp: pip install 'specedge[websocket]'"
        raise InvalidRequest(message, field="servers") from None
    return aiohttp
