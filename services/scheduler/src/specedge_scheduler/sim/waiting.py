"""How far a simulation is, for the person who waits: a line that changes on a terminal, a new one
now and then elsewhere. On stderr; of what ends soon, nothing.
"""

import sys
from typing import Final, Protocol, Self

from rich.console import Console

LINE_EVERY_S: Final = 10.0


class Watcher(Protocol):
    """Whoever waits for worlds."""

    def begins(self, what: str) -> None:
        """The next world, in words."""
        ...

    def passed(self, now_s: float, of_s: float) -> None:
        """So many virtual seconds of it."""
        ...


class Nobody:
    """Does not wait."""

    def begins(self, what: str) -> None:
        """Say nothing."""

    def passed(self, now_s: float, of_s: float) -> None:
        """Say nothing."""


NOBODY: Final[Watcher] = Nobody()


class Waiting:
    """A ``Watcher``, and a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._console = console
        self._status = console.status("") if sys.stderr.isatty() else None
        self._what = ""
        self._said_s = self._console.get_time()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def begins(self, what: str) -> None:
        """See ``Watcher.begins``."""
        self._what = what

    def passed(self, now_s: float, of_s: float) -> None:
        """See ``Watcher.passed``."""
        said = f"{self._what}: {now_s:.3g} of {of_s:g} s"
        if self._status is not None:
            self._status.update(said)
        elif self._console.get_time() - self._said_s >= LINE_EVERY_S:
            self._said_s = self._console.get_time()
            self._console.print(said, markup=False)
