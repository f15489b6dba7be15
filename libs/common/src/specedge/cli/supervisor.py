"""Keeps the processes of a running system alive, and ends them in order.

A process that was ever ready, or that a signal killed, is started again after a pause that doubles.
One that ends by itself before it was ever ready cannot be helped, nor one that does not become
ready however often it is started: its last words are shown.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import orjson

from specedge.cli.child import Child
from specedge.cli.failure import CommandFailed
from specedge.cli.stack import ProcessPlan

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
FAILURES_IN_A_ROW: Final = 5
GRACE_S: Final = 8.0
FAILED: Final = "service_failed"


class Supervisor:
    """Owns the children. ``notice`` is told, in words, what happened to them."""

    def __init__(
        self, plans: Sequence[ProcessPlan], *, run_dir: Path, notice: Callable[[str], None]
    ) -> None:
        self.children = [Child(plan, run_dir=run_dir) for plan in plans]
        self._notice = notice
        self._stopping = False

    def is_stopping(self) -> bool:
        """Whether the end of a child is meant."""
        return self._stopping

    def child(self, name: str) -> Child:
        """The child called ``name``; KeyError without one."""
        return next(child for child in self.children if child.name == name)

    async def keep(self, child: Child) -> None:
        """Run one child again and again until ``stop``.

        Raises CommandFailed when it cannot be kept alive. Cancelling it kills the child.
        """
        failures, pause_s, was_ever_ready = 0, FIRST_PAUSE_S, False
        while not self.is_stopping():
            code = await child.run_once()
            if self.is_stopping():
                return
            if child.ready.is_set():
                failures, pause_s, was_ever_ready = 0, FIRST_PAUSE_S, True
            failures += 1
            is_hopeless = code >= 0 and not was_ever_ready
            if is_hopeless or failures >= FAILURES_IN_A_ROW:
                raise CommandFailed(f"{child.name} {describe_exit(code)}", hint=last_words(child))
            self._notice(f"{child.name} {describe_exit(code)}; starting it again")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """End all children, those that were started last first; services of one kind together.

        Returns when none is left. Safe to call twice.
        """
        self._stopping = True
        for _, kind in groupby(reversed(self.children), key=lambda child: child.plan.module):
            await asyncio.gather(*(child.stop(grace_s) for child in kind))

    def kill(self) -> None:
        """End all children now, without waiting."""
        self._stopping = True
        for child in self.children:
            child.kill()


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def last_words(child: Child) -> str:
    """Why it says that it failed, then the end of a child's log, and where all of it is."""
    reasons = dict.fromkeys(filter(None, map(_reason_in, child.last_lines)))
    lines = "\n".join(f"  {line}" for line in child.last_lines) or "  (it said nothing)"
    return "\n".join([*reasons, f"its last lines ({child.log_path}):", lines])


def _reason_in(line: str) -> str | None:
    """What a service that fails says to its operator, if this is the line."""
    try:
        said: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(said, dict) or said.get("event") != FAILED:
        return None
    return said.get("reason")
