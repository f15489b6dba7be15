"""A link over connections that get lost: wins them back and subscribes again. Names no broker.

There is one way back, whatever was lost (the network, the broker, or its goodwill): the dead
connection is thrown away with all that it had queued, and a new one is opened, subscribed and
flushed before anyone is told. So nothing stale is ever sent late.

    CONNECTED ──loss──▶ DISCONNECTED ──opened, subscribed, flushed──▶ CONNECTED
        │                    │  ▲ └──▶ an attempt fails: wait, try again
        └──────close─────────┴──┴────▶ CLOSED ◀── credentials refused too often, or revoked
"""

import asyncio
from typing import Final

import structlog

from specedge.errors import (
    AuthenticationFailed,
    InvalidRequest,
    LinkDown,
    RetryableError,
    SpecEdgeError,
)
from specedge.link._connection import (
    Backoff,
    Connection,
    Loss,
    OpenConnection,
    RecoveryPolicy,
    TaskStarter,
)
from specedge.link._delivery import note_drop, tell
from specedge.link._interest import Interest
from specedge.link._payload import check_payload
from specedge.link._subject_rules import check_pattern, check_subject
from specedge.link.base import (
    Handler,
    LinkCounters,
    LinkState,
    Message,
    StateListener,
    Subscription,
)
from specedge.log_pace import is_worth_a_line

PUBLISHES_PER_TURN: Final = 64  # a publish need not yield; a tight loop of them must not starve

_log = structlog.get_logger("specedge.link")


class ReconnectingLink:
    """A ``Link``, and the ``ConnectionEvents`` of its connections. One event loop only."""

    def __init__(self, open_connection: OpenConnection, policy: RecoveryPolicy) -> None:
        self._open_connection = open_connection
        self._policy = policy
        self._backoff = Backoff(policy)
        self._counters = LinkCounters()
        self._listeners: list[StateListener] = []
        self._interests: list[Interest] = []
        self._connection: Connection | None = None
        self._is_up = asyncio.Event()  # also set once closed, so that nobody waits for ever
        self._lost = asyncio.Event()
        self._last_loss: tuple[Connection, Loss] | None = None
        self._last_failure = "no answer"
        self._end: tuple[type[SpecEdgeError], str] | None = None  # why the link is closed
        self._supervisor: asyncio.Task[None] | None = None
        self._calm: asyncio.TimerHandle | None = None

    async def start(self, tasks: TaskStarter) -> None:
        """Make the first connection. Raises LinkDown after ``open_timeout_s``, or
        AuthenticationFailed. Cancelling it leaves nothing behind."""
        limit_s = self._policy.open_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._establish()
        except TimeoutError:
            message = f"no broker within {limit_s:g} s: {self._last_failure}"
            raise LinkDown(message) from None
        try:
            self._supervisor = tasks.start(self._supervise(), name="link-supervisor")
            await asyncio.sleep(0)  # a task cancelled before its first step would clean up nothing
        except BaseException:
            await self.close()
            raise

    # What services ask: see the Link port.

    @property
    def is_connected(self) -> bool:
        """See ``Link.is_connected``."""
        return self._connection is not None and self._connection.is_open

    @property
    def counters(self) -> LinkCounters:
        """See ``Link.counters``."""
        return self._counters

    def on_state(self, listener: StateListener) -> None:
        """See ``Link.on_state``."""
        self._listeners.append(listener)

    async def publish(self, subject: str, payload: bytes) -> None:
        """See ``Link.publish``."""
        connection = self._connection_for(subject, payload)
        await connection.publish(subject, payload)
        self._count_out(payload)
        if self._counters.messages_out % PUBLISHES_PER_TURN == 0:
            await asyncio.sleep(0)

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """See ``Link.request``."""
        connection = self._connection_for(subject, payload)
        self._count_out(payload)
        answer = await connection.request(subject, payload, timeout_s=timeout_s)
        self._counters.messages_in += 1
        self._counters.bytes_in += len(answer)
        return answer

    async def reply(self, message: Message, payload: bytes) -> None:
        """See ``Link.reply``."""
        if message.reply is not None:
            await self.publish(message.reply, payload)

    async def subscribe(
        self, subject: str, handler: Handler, *, max_pending: int = 8192
    ) -> Subscription:
        """See ``Link.subscribe``."""
        check_pattern(subject)
        if max_pending < 1:
            raise InvalidRequest("a subscription holds at least one message", field="max_pending")
        interest = Interest(
            subject,
            handler,
            max_pending=max_pending,
            counters=self._counters,
            forget=self._forget_interest,
        )
        self._interests.append(interest)
        try:
            while not await self._try_make_known(interest):
                pass  # lost meanwhile: the supervisor binds it to the next connection
        except BaseException:
            await interest.unsubscribe()
            raise
        return interest

    async def flush(self) -> None:
        """See ``Link.flush``."""
        await self._open_one().flush()

    async def close(self) -> None:
        """See ``Link.close``."""
        self._finish(LinkDown, "the link is closed")
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        await self._drop_connection()

    # What connections tell: see ConnectionEvents.

    def on_loss(self, connection: Connection, loss: Loss) -> None:
        """See ``ConnectionEvents.on_loss``."""
        if connection is not self._connection:
            return  # one that was being opened: whoever opens it finds out
        self._connection = None
        self._is_up.clear()
        self._forget_calm()
        self._last_loss = (connection, loss)
        self._lost.set()
        _log.warning("link_lost", reason=loss.reason)
        tell(self._listeners, LinkState.DISCONNECTED)

    def on_drop(self, subject: str) -> None:
        """See ``ConnectionEvents.on_drop``."""
        note_drop(subject, self._counters)

    def on_denial(self, reason: str) -> None:
        """See ``ConnectionEvents.on_denial``."""
        self._counters.permission_denials += 1
        so_far = self._counters.permission_denials
        if is_worth_a_line(so_far):
            _log.warning("link_permission_denied", reason=reason, so_far=so_far)

    # Recovery.

    async def _supervise(self) -> None:
        """Runs until the link is closed. Cancelled by ``close`` or by the end of its tasks; then
        it closes the connection."""
        try:
            while self._end is None:
                await self._lost.wait()
                self._lost.clear()
                await self._recover()
        finally:
            self._finish(LinkDown, "the link's tasks have ended")
            await self._drop_connection()

    async def _recover(self) -> None:
        assert self._last_loss is not None
        connection, loss = self._last_loss
        await connection.close()
        if loss.is_final:
            self._finish(AuthenticationFailed, loss.reason)
            return
        try:
            await self._establish()
        except AuthenticationFailed as error:
            self._finish(AuthenticationFailed, str(error))
            return
        self._counters.reconnects += 1
        _log.info("link_restored", reconnects=self._counters.reconnects)

    async def _establish(self) -> None:
        """Open, subscribe, flush and tell, trying for ever. Raises AuthenticationFailed only."""
        refusals = 0
        while True:
            await asyncio.sleep(self._backoff.next_wait_s())
            try:
                connection = await self._open_connection(self)
            except AuthenticationFailed as error:
                self._note_failure(error)
                refusals += 1
                if refusals >= self._policy.max_refusals:
                    raise
            except LinkDown as error:
                self._note_failure(error)
                refusals = 0
            else:
                if await self._try_adopt(connection):
                    return

    async def _try_adopt(self, connection: Connection) -> bool:
        is_ready = False
        try:
            await connection.flush()
            while unbound := [i for i in self._interests if not i.is_bound_to(connection)]:
                for interest in unbound:
                    await interest.bind(connection)
                await connection.flush()
            is_ready = connection.is_open
        except RetryableError as error:
            self._note_failure(error)
        finally:
            if not is_ready:
                await connection.close()
        if is_ready:
            self._adopt(connection)
        return is_ready

    def _adopt(self, connection: Connection) -> None:
        self._connection = connection
        self._is_up.set()
        loop = asyncio.get_running_loop()
        self._calm = loop.call_later(self._policy.calm_s, self._backoff.reset)
        tell(self._listeners, LinkState.CONNECTED)

    def _note_failure(self, error: SpecEdgeError) -> None:
        self._last_failure = str(error)
        if is_worth_a_line(self._backoff.attempts):
            attempts = self._backoff.attempts
            _log.warning("link_attempt_failed", reason=self._last_failure, attempts=attempts)

    def _finish(self, error: type[SpecEdgeError], reason: str) -> None:
        if self._end is not None:
            return
        self._end = (error, reason)
        self._is_up.set()
        self._forget_calm()
        if error is AuthenticationFailed:
            _log.error("link_refused", reason=reason)
        tell(self._listeners, LinkState.CLOSED)

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        lost = None if self._last_loss is None else self._last_loss[0]  # it may not be closed yet
        for left in (connection, lost):
            if left is not None:
                await left.close()

    def _forget_calm(self) -> None:
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None

    # Small print.

    def _open_one(self) -> Connection:
        if self._end is not None:
            error, reason = self._end
            raise error(reason)
        if self._connection is None or not self._connection.is_open:
            raise LinkDown("not connected")
        return self._connection

    def _connection_for(self, subject: str, payload: bytes) -> Connection:
        check_subject(subject)
        try:
            connection = self._open_one()
        except LinkDown:
            self._counters.refused_out += 1
            raise
        check_payload(payload, connection.max_payload_bytes)
        return connection

    def _count_out(self, payload: bytes) -> None:
        self._counters.messages_out += 1
        self._counters.bytes_out += len(payload)

    async def _try_make_known(self, interest: Interest) -> bool:
        await self._is_up.wait()
        if self._end is None and not self.is_connected:
            return False  # lost again before this task had its turn
        connection = self._open_one()
        try:
            await interest.bind(connection)
            await connection.flush()
        except LinkDown:
            return False
        return True

    def _forget_interest(self, interest: Interest) -> None:
        if interest in self._interests:
            self._interests.remove(interest)
