"""One subscription of a link, bound to one connection after the other."""

import contextlib
from collections.abc import Callable

from specedge.errors import LinkDown
from specedge.link._connection import Connection, Unsubscribe
from specedge.link._delivery import deliver
from specedge.link.base import Handler, LinkCounters, Message


class Interest:
    """A ``Subscription``. Made and bound by the link, ended by whoever subscribed."""

    def __init__(
        self,
        subject: str,
        handler: Handler,
        *,
        max_pending: int,
        counters: LinkCounters,
        forget: Callable[["Interest"], None],
    ) -> None:
        self._subject = subject
        self._handler: Handler | None = handler
        self._max_pending = max_pending
        self._counters = counters
        self._forget = forget
        self._bound_to: Connection | None = None
        self._unbind: Unsubscribe | None = None

    def is_bound_to(self, connection: Connection) -> bool:
        """Whether ``connection`` was asked for the messages."""
        return self._bound_to is connection

    async def bind(self, connection: Connection) -> None:
        """Ask ``connection`` for the messages, once. Raises LinkDown."""
        if self._bound_to is connection or self._is_over():
            return
        self._bound_to, self._unbind = connection, None
        try:
            self._unbind = await connection.subscribe(
                self._subject, self._deliver, max_pending=self._max_pending
            )
        except BaseException:
            self._bound_to = None
            raise
        if self._is_over():  # ended while the question was under way
            await self._let_go()

    async def unsubscribe(self) -> None:
        """See ``Subscription.unsubscribe``. No delivery follows, not even of what is queued."""
        self._handler = None
        self._forget(self)
        await self._let_go()

    def _is_over(self) -> bool:
        return self._handler is None

    async def _let_go(self) -> None:
        unbind, self._unbind = self._unbind, None
        if unbind is not None:
            with contextlib.suppress(LinkDown):
                await unbind()

    def _deliver(self, message: Message) -> None:
        if self._handler is not None:
            deliver(self._handler, message, self._counters)
