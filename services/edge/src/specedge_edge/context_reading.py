"""What a session's drafter does not know yet, read piece by piece: other sessions' rounds pass in
between, and the session's own are the verifier's meanwhile. On the loop."""

import asyncio
from typing import Final

from specedge.drafting.reading import PIECE_TOKENS
from specedge.errors import Busy
from specedge.protocol.effects import Committed
from specedge.service.compute import Compute
from specedge_edge.session_drafter import SessionDrafter

# Tokens of a grant while the drafter reads: the sooner it is over, the sooner drafts are of use.
READING_GRANT_TOKENS: Final = 8


class ContextReading:
    """One session's. Each piece is a call of its own, asked for when the one before is done."""

    def __init__(self, compute: Compute, session: SessionDrafter) -> None:
        self._compute = compute
        self._session = session  # the compute thread's
        self._end: asyncio.Future[None] | None = None
        self._piece: asyncio.Future[bool] | None = None

    @property
    def is_under_way(self) -> bool:
        """From ``start`` until ``is_over`` says so, or raises."""
        return self._end is not None

    @staticmethod
    def is_worth_while(num_new: int) -> bool:
        """Whether so many tokens are more than a draft's first pass should have to read."""
        return num_new > PIECE_TOKENS

    def start(self, committed: tuple[int, ...], news: tuple[Committed, ...]) -> None:
        """Begin; the arguments are those of ``SessionDrafter.read``. Raises Busy."""
        self._read(asyncio.get_running_loop().create_future(), committed, news)

    async def is_over(self, within_s: float) -> bool:
        """Whether all was read after so long at most. Raises, once, what reading raised."""
        assert self._end is not None
        await asyncio.wait({self._end}, timeout=within_s)
        if not self._end.done():
            return False
        end, self._end = self._end, None
        end.result()
        return True

    def stop(self) -> None:
        """Read no further. Idempotent."""
        end, self._end = self._end, None
        if end is not None and self._piece is not None:
            if not end.cancel():
                end.exception()  # which nobody is to be told any more
            self._piece.cancel()

    def _read(
        self,
        end: asyncio.Future[None],
        committed: tuple[int, ...],
        news: tuple[Committed, ...] = (),
    ) -> None:
        def on_done(piece: asyncio.Future[bool]) -> None:
            error = None if piece.cancelled() else piece.exception()
            if end.done():
                return  # stopped
            if error is not None:
                end.set_exception(error)
            elif not piece.result():
                end.set_result(None)
            else:
                try:
                    self._read(end, committed)
                except Busy as busy:
                    end.set_exception(busy)

        self._piece = self._compute.start(self._session.read, committed, news)
        self._piece.add_done_callback(on_done)
        self._end = end
