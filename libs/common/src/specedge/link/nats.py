"""The link over NATS. The one file that knows nats-py, and its faults.

``NatsLink`` is what services use. ``_NatsConnection`` is one connection; ``_Client`` is nats-py's
client with these faults cured at their root:

- a cancelled or timed-out flush left a future behind that killed the read loop when its PONG came;
- a PING overtook what had been published, so that a flush was no barrier;
- closing waited without bound for the peer: half a minute for TLS, for ever on a bad certificate;
- many errors closed the client for good, or reconnected it with stale messages in its buffer:
  here every error only ends the connection, and ``ReconnectingLink`` makes a new one;
- waiting requests and flushes learnt of a loss by their timeouts only: here at once;
- a broker that offers no TLS was spoken to in the clear even where TLS was wanted;
- one publisher's odd subject ended everybody's connection, or left it deaf: the broker takes any
  bytes but its own spaces, the client wanted UTF-8, and took more for spaces;
- a task that was cancelled just as its answer came was not, up to Python 3.11: ``wait_for``
  forgets it then;
- a greeting that is none raised whatever it made the client stumble over, and of a line without an
  end all was kept.

They are cured by overriding private methods, hence the check of the version. So is one cost: a task
and a queue for each subscription. Here what was read together waits in ``_Inbox`` until all of it
is parsed, and is handed over in one go, in the same turn of the loop.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import nats.aio.client
import nats.protocol.parser
import structlog
from nats import errors
from nats.aio.transport import TcpTransport
from nats.protocol import command
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from specedge.credentials.nkey import UserKey
from specedge.errors import (
    AuthenticationFailed,
    LinkDown,
    LinkTimeout,
    NoResponders,
    SpecEdgeError,
)
from specedge.link._connection import ConnectionEvents, Loss, TaskStarter, Unsubscribe
from specedge.link._nats_options import NatsOptions, shown
from specedge.link._reconnecting import ReconnectingLink
from specedge.link._websocket import WebSocketTransport
from specedge.link.base import Message

if TYPE_CHECKING:
    import ssl
    from urllib.parse import ParseResult

__all__ = ["NatsLink", "NatsOptions"]

CURED_VERSION: Final = "2.16."
END_TIMEOUT_S: Final = 0.5  # for each step of closing that waits for the peer
MAX_LINE_BYTES: Final = 1 << 20  # of what is no message; a broker's greeting names its peers
MAX_MESSAGE_BYTES: Final = 64 << 20  # NATS advises against an eighth of it
NOT_UNDERSTOOD: Final = "the broker's greeting was not understood"
CRLF: Final = b"\r\n"
PING: Final = b"PING\r\n"

_log = structlog.get_logger("specedge.link")

_NAME: Final = rb"([^ \t\r\n]+)[ \t]+"
nats.protocol.parser.MSG_RE = re.compile(rb"\AMSG[ \t]+" + _NAME * 2 + rb"(%b)?(\d+)\r\n" % _NAME)
nats.protocol.parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+" + _NAME * 2 + rb"(%b)?(\d+)[ \t]+(\d+)\r\n" % _NAME
)

_REFUSED: Final = re.compile(r"authorization violation|authentication (revoked|expired)", re.I)
_REVOKED: Final = re.compile(r"authentication revoked", re.I)
# The broker refuses one wish and keeps the connection.
_DENIED: Final = re.compile(
    r"permissions violation|maximum subscriptions exceeded|invalid (publish )?subject", re.I
)

if not nats.aio.client.__version__.startswith(CURED_VERSION):
    raise ImportError(
        f"nats-py {CURED_VERSION}* is needed, not {nats.aio.client.__version__}: "
        "the cures in this file override its private methods"
    )


class NatsLink(ReconnectingLink):
    """A ``Link`` to a NATS broker that survives its restarts. Made by ``connect``."""

    @classmethod
    async def connect(cls, options: NatsOptions, *, tasks: TaskStarter) -> "NatsLink":
        """Connect, trying for ``options.recovery.open_timeout_s``. ``tasks`` runs the recovery:
        when it ends, so does the link.

        Raises LinkDown, AuthenticationFailed, or InvalidRequest for a seed or certificate file
        that is no good, or wss:// without aiohttp. Cancelling it leaves nothing behind.
        """
        key = None if options.seed is None else UserKey.from_seed(options.seed)
        tls = options.ssl_context() if options.wants_tls or options.tls_cert_file else None

        async def open_connection(events: ConnectionEvents) -> _NatsConnection:
            return await _NatsConnection.open(options, key, tls, events)

        link = cls(open_connection, options.recovery)
        await link.start(tasks)
        return link

    @classmethod
    async def connect_patiently(cls, options: NatsOptions, *, tasks: TaskStarter) -> "NatsLink":
        """As ``connect``, again and again while no broker can be reached, until it is cancelled:
        what was loaded meanwhile is worth waiting with. Raises what no waiting mends."""
        while True:
            try:
                return await cls.connect(options, tasks=tasks)
            except LinkDown as error:
                _log.warning("broker_unreachable", reason=str(error))


class _Transport(TcpTransport):
    """TCP or TLS whose end is bounded: a peer that no longer answers is not waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_ending = False

    def __bool__(self) -> bool:
        return True  # else the client would put its own in our place before the first connect

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is up."""
        writer = self._io_writer
        return writer is not None and writer.get_extra_info("ssl_object") is not None

    async def connect(self, uri: "ParseResult", buffer_size: int, connect_timeout: int) -> None:
        """As in the base class."""
        self.is_ending = False
        await super().connect(uri, buffer_size, connect_timeout)

    async def connect_tls(
        self,
        uri: "str | ParseResult",
        ssl_context: "ssl.SSLContext",
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """As in the base class; the new reader also learns whom to slow down."""
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        assert self._io_reader is not None
        assert self._io_writer is not None
        self._io_reader.set_transport(self._io_writer.transport)

    async def drain(self) -> None:
        """While ending, bounded and silent: what cannot be sent any more is lost."""
        if not self.is_ending:
            await super().drain()  # type: ignore[no-untyped-call]
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await super().drain()  # type: ignore[no-untyped-call]

    async def wait_closed(self) -> None:
        """Wait a little for an orderly end, then end without order."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await super().wait_closed()  # type: ignore[no-untyped-call]
        self.abort()

    async def release(self) -> None:
        """See ``abort``: nothing else belongs to it."""
        self.abort()

    def abort(self) -> None:
        """Drop the connection now. Idempotent."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()


class _Inbox:
    """What has arrived for one subscription, until all that was read with it is parsed. ``on_drop``
    is told of what found it full."""

    __slots__ = ("_deliver", "_max_pending", "_on_drop", "_pending")

    def __init__(
        self, deliver: Callable[[Message], None], max_pending: int, on_drop: Callable[[str], None]
    ) -> None:
        self._deliver = deliver
        self._max_pending = max_pending
        self._on_drop = on_drop
        self._pending: deque[Message] = deque()

    def put(self, message: Message) -> bool:
        """It is delivered in its turn, or dropped. Whether it is the first that waits."""
        if len(self._pending) >= self._max_pending:
            self._on_drop(message.subject)
            return False
        self._pending.append(message)
        return len(self._pending) == 1

    def lose(self) -> None:
        """Deliver nothing more of what is here."""
        self._pending.clear()

    def hand_over(self) -> None:
        """Deliver all that is here."""
        while self._pending:
            self._deliver(self._pending.popleft())


class _Parser(Parser):
    """nats-py's parser; what it found in one read is delivered when it is through with it."""

    def __init__(self, client: "_Client") -> None:
        super().__init__(client)
        self._client = client

    async def parse(self, data: bytes = b"") -> None:
        """As in the base class."""
        try:
            await super().parse(data)
        finally:
            self._client.hand_over()
        # Of a line that is none the base class would wait for the rest, for ever, and keep it all.
        if self.state == AWAITING_CONTROL_LINE:
            is_too_much = CRLF in self.buf or len(self.buf) > MAX_LINE_BYTES
        else:
            is_too_much = self.needed > MAX_MESSAGE_BYTES
        if is_too_much:
            raise errors.ProtocolError("an unknown line, or one without an end")


class _Client(nats.aio.client.Client):
    """nats-py's client for a single connection: it neither reconnects nor closes by itself.

    Whatever goes wrong is told to ``on_end``, once or more; whoever made the client closes it.
    """

    def __init__(
        self,
        *,
        transport: "_Transport | WebSocketTransport",
        public_key: str | None,
        wants_tls: bool,
        on_end: Callable[[Loss], None],
        on_denial: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.last_failure: Exception | None = None
        self._bounded = transport
        self._transport = transport  # type: ignore[assignment]  # all of its methods, not its base
        self._public_nkey = public_key
        self._wants_tls = wants_tls
        self._on_end = on_end
        self._on_denial = on_denial
        self._inboxes: dict[int, _Inbox] = {}
        self._filled: list[_Inbox] = []  # in which something waits
        self._ps = _Parser(self)

    async def listen(self, subject: str, inbox: _Inbox) -> int:
        """Have the broker send what matches ``subject``, and put it into ``inbox``. Returns the
        subscription's number."""
        self._sid += 1
        number = self._sid
        self._inboxes[number] = inbox
        await self._send_command(command.sub_cmd(subject, "", number))
        await self._flush_pending()
        return number

    async def forget(self, number: int) -> None:
        """No more of that subscription."""
        inbox = self._inboxes.pop(number, None)
        if inbox is not None:
            inbox.lose()
            await self._send_unsubscribe(number)

    def hand_over(self) -> None:
        """Deliver what was read, subscription by subscription."""
        filled, self._filled = self._filled, []
        for inbox in filled:
            inbox.hand_over()

    def watch_loops(self) -> None:
        """Once connected: a read or write loop that ends, for whatever reason, ends all."""
        for task in (self._reading_task, self._flusher_task):
            assert task is not None
            task.add_done_callback(lambda _: self._on_end(Loss("read or write loop ended")))

    def fail_waiters(self) -> None:
        """Wake everyone who waits for a PONG or a reply."""
        for future in [*self._pongs, *self._resp_map.values()]:
            if not future.done():
                future.set_exception(errors.ConnectionClosedError())
                future.exception()  # it may be that nobody waits any more

    async def wait_for_room(self, max_backlog_bytes: int) -> None:
        """Return when the unsent bytes are few enough. Raises OSError."""
        while self._pending_data_size > max_backlog_bytes:
            await self._bounded.drain()
            await asyncio.sleep(0)  # the write loop's turn

    async def release(self) -> None:
        """Drop the connection now. Idempotent."""
        await self._bounded.release()

    def _connect_command(self) -> bytes:
        if self._wants_tls and not self._bounded.is_encrypted:
            raise errors.SecureConnWantedError
        return super()._connect_command()

    async def _send_ping(self, future: "asyncio.Future[Any] | None" = None) -> None:
        # Into the queue, behind what was published before: that makes one flush a barrier.
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(PING)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():  # whoever asked has gone; its PONG still counts
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        inbox = self._inboxes.get(sid)
        told, answer_to = subject.decode(errors="replace"), reply.decode(errors="replace")
        if inbox is None:  # replies to requests, and late ones of subscriptions that ended
            await super()._process_msg(sid, told.encode(), answer_to.encode(), data, headers)
            return
        if inbox.put(Message(told, data, answer_to or None)):
            self._filled.append(inbox)

    async def _process_op_err(self, e: Exception) -> None:
        self._on_end(Loss(str(e) or type(e).__name__))

    async def _process_err(self, err_msg: str) -> None:
        if _DENIED.search(err_msg):
            self._on_denial(err_msg)
            return
        self._on_end(Loss(f"broker: {err_msg}", is_final=bool(_REVOKED.search(err_msg))))

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._bounded.is_ending = True
        self.fail_waiters()
        for inbox in self._inboxes.values():
            inbox.lose()
        await super()._close(status, do_cbs)


class _NatsConnection:
    """A ``Connection``. Made by ``open``."""

    def __init__(self, options: NatsOptions, key: UserKey | None, events: ConnectionEvents) -> None:
        self._options = options
        self._key = key
        self._events = events
        self._is_closing = False
        self._loss: Loss | None = None
        self._client = _Client(
            transport=WebSocketTransport() if options.is_websocket else _Transport(),
            public_key=None if key is None or options.user_jwt is not None else key.public_key,
            wants_tls=options.wants_tls,
            on_end=self._on_end,
            on_denial=events.on_denial,
        )

    @classmethod
    async def open(
        cls,
        options: NatsOptions,
        key: UserKey | None,
        tls: "ssl.SSLContext | None",
        events: ConnectionEvents,
    ) -> "_NatsConnection":
        """See ``OpenConnection``."""
        connection = cls(options, key, events)
        try:
            await connection._connect(tls)
        except BaseException:
            await connection.close()
            raise
        return connection

    @property
    def is_open(self) -> bool:
        """See ``Connection.is_open``."""
        return self._loss is None and not self._is_closing

    @property
    def max_payload_bytes(self) -> int:
        """See ``Connection.max_payload_bytes``."""
        own = self._options.max_payload_bytes
        return self._client.max_payload if own is None else min(own, self._client.max_payload)

    async def publish(self, subject: str, payload: bytes) -> None:
        """See ``Connection.publish``."""
        self._check_open()
        limit = self._options.max_backlog_bytes
        try:
            if self._client.pending_data_size > limit:
                async with asyncio.timeout(self._options.flush_timeout_s):
                    await self._client.wait_for_room(limit)
                self._check_open()
            await self._client.publish(subject, payload)
        except TimeoutError:
            raise LinkDown(f"more than {limit} bytes wait to be sent") from None
        except (errors.Error, OSError) as error:
            raise LinkDown(str(error)) from error

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """See ``Connection.request``."""
        self._check_open()
        try:
            # Without a limit of the client's own: that is a ``wait_for``.
            async with asyncio.timeout(timeout_s):
                answer = await self._client.request(subject, payload, timeout=None)  # type: ignore[arg-type]
        except errors.NoRespondersError:
            raise NoResponders(f"nobody answers on {subject}") from None
        except TimeoutError:
            raise LinkTimeout(f"no answer on {subject} within {timeout_s:g} s") from None
        except (errors.Error, OSError) as error:
            raise LinkDown(str(error)) from error
        return answer.data

    async def subscribe(
        self, subject: str, deliver: Callable[[Message], None], *, max_pending: int
    ) -> Unsubscribe:
        """See ``Connection.subscribe``."""
        self._check_open()
        inbox = _Inbox(deliver, max_pending, self._events.on_drop)
        try:
            number = await self._client.listen(subject, inbox)
        except (errors.Error, OSError) as error:
            raise LinkDown(str(error)) from error

        async def unsubscribe() -> None:
            if self.is_open:
                with contextlib.suppress(errors.Error, OSError):
                    await self._client.forget(number)

        return unsubscribe

    async def flush(self) -> None:
        """See ``Connection.flush``."""
        self._check_open()
        await self._flush(self._options.flush_timeout_s)
        self._check_open()  # without its loops the client's flush returns at once

    async def close(self) -> None:
        """See ``Connection.close``."""
        was_open, self._is_closing = self.is_open, True
        try:
            if was_open:
                with contextlib.suppress(LinkDown, LinkTimeout):
                    await self._flush(END_TIMEOUT_S)
            with contextlib.suppress(Exception):  # it is thrown away, whatever it says
                await self._client.close()
        finally:
            await self._client.release()

    async def _connect(self, tls: "ssl.SSLContext | None") -> None:
        try:
            with _heeding_cancellation():
                async with asyncio.timeout(self._limit_s):
                    await self._client.connect(**self._arguments(tls))
        except (errors.Error, OSError, TimeoutError) as error:
            raise self._explained(error) from error
        except SpecEdgeError:
            raise
        except Exception as error:  # the client reads what strangers say: it may fail in any way
            raise self._explained(LinkDown(NOT_UNDERSTOOD)) from error
        if self._loss is not None:
            raise self._explained(LinkDown(self._loss.reason))
        if not self._client.is_connected or type(self._client.max_payload) is not int:
            raise self._explained(LinkDown(NOT_UNDERSTOOD))
        self._client.watch_loops()

    @property
    def _limit_s(self) -> float:
        """TCP, greeting, TLS and answer, each bounded, of every server, some tried twice."""
        return 4 * self._options.connect_timeout_s * (len(self._options.servers) + 1)

    def _arguments(self, tls: "ssl.SSLContext | None") -> dict[str, Any]:
        options, key = self._options, self._key
        jwt = options.user_jwt
        return {
            "servers": list(options.servers),
            "name": options.name,
            "inbox_prefix": options.inbox_prefix,
            "tls": tls,
            "tls_hostname": options.tls_hostname,
            "connect_timeout": options.connect_timeout_s,
            "ping_interval": options.ping_interval_s,
            "max_outstanding_pings": options.max_outstanding_pings,
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,  # of the servers' ports; 0 would mean for ever
            "reconnect_time_wait": 0.05,
            "pending_size": 0,  # no buffer for when it is down
            "error_cb": self._on_error,
            "signature_cb": None if key is None else key.answer_challenge,
            "user_jwt_cb": None if jwt is None else lambda: jwt().encode(),
        }

    async def _flush(self, timeout_s: float) -> None:
        try:
            with _heeding_cancellation():
                await self._client.flush(timeout=timeout_s)  # type: ignore[arg-type]  # an int
        except TimeoutError:
            raise LinkTimeout(f"the broker did not answer within {timeout_s:g} s") from None
        except (errors.Error, OSError) as error:
            raise LinkDown(str(error)) from error

    def _explained(self, error: Exception) -> SpecEdgeError:
        if isinstance(error, errors.NoServersError) and self._client.last_failure is not None:
            error = self._client.last_failure
        where = ", ".join(shown(server) for server in self._options.servers)
        text = f"{where}: {str(error) or type(error).__name__}"
        return AuthenticationFailed(text) if _REFUSED.search(text) else LinkDown(text)

    def _check_open(self) -> None:
        if not self.is_open:
            raise LinkDown("not connected")

    def _on_end(self, loss: Loss) -> None:
        if self.is_open:
            self._loss = loss
            self._client.fail_waiters()
            self._events.on_loss(self, loss)

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, errors.SlowConsumerError):
            self._events.on_drop(error.subject)
        else:
            self._client.last_failure = error


@contextlib.contextmanager
def _heeding_cancellation() -> Iterator[None]:
    """A cancellation that is forgotten in the block is raised at its end."""
    task = asyncio.current_task()
    assert task is not None
    so_far = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > so_far:
            raise asyncio.CancelledError
