"""How a verifier stops: says so, finishes the rounds it has, says goodbye.

Grants and prefills are not rounds: their sessions are let go at once, and go on elsewhere when
their edges next speak.
"""

import asyncio
import contextlib
from typing import Final

from specedge_verifier.engine_loop import EngineLoop
from specedge_verifier.entry import Entry
from specedge_verifier.reports import Reporter
from specedge_verifier.sessions import SessionTable

IN_TRANSIT_S: Final = 0.2  # what schedulers had sent before they heard of it arrives by then


async def drain(
    table: SessionTable, loop: EngineLoop, reporter: Reporter, *, limit_s: float
) -> None:
    """Return when every round that was here has been answered, or after ``limit_s``; the goodbye is
    said then."""
    reporter.is_draining = True
    reporter.tell()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await asyncio.sleep(IN_TRANSIT_S)
            _let_go(table)
            await loop.idle.wait()
    reporter.bye()


def _let_go(table: SessionTable) -> None:
    for entry in table.entries:
        if not _has_round(entry):
            table.end(entry.key)


def _has_round(entry: Entry) -> bool:
    wants = (entry.want, entry.running)
    return any(w is not None and w.tree is not None and not w.is_hosted for w in wants)
