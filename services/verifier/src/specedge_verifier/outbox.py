"""What this verifier says, on its way to the link: handlers and machines put, one task publishes.

Bounded: beyond it the newest is dropped and counted, as a lost message is; retries cover it.
"""

import asyncio
import contextlib
from typing import Final

import structlog

from specedge.errors import InvalidRequest, RetryableError
from specedge.link.base import Link

MAX_MESSAGES: Final = 65_536

_log = structlog.get_logger("specedge.verifier")


class Outbox:
    """A queue in front of a link. ``put`` from the event loop only."""

    def __init__(self, link: Link) -> None:
        self.num_dropped = 0
        self._link = link
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(MAX_MESSAGES)

    def put(self, subject: str, payload: bytes) -> None:
        """Publish soon, in order."""
        try:
            self._queue.put_nowait((subject, payload))
        except asyncio.QueueFull:
            self.num_dropped += 1

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            subject, payload = await self._queue.get()
            try:
                await self._link.publish(subject, payload)
            except (RetryableError, InvalidRequest) as error:
                self.num_dropped += 1
                _log.debug("publish_failed", subject=subject, reason=str(error))
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Return when everything put before was handed to the link and the broker has it, or when
        the link is down: then nobody is there to hear it."""
        await self._queue.join()
        with contextlib.suppress(RetryableError):
            await self._link.flush()
