"""How far the measurement is: bars on a terminal, a line now and then elsewhere. On stderr."""

import sys
from typing import Final, Self

from rich.progress import MofNCompleteColumn, Progress, TaskID

from specedge.cli.console import err

LINES: Final = 8  # about as many, for each of the two sides, where no bars can be drawn


class ComparisonProgress:
    """Counts prompts answered by the system and decoded plainly. May be told from any thread."""

    def __init__(self, total: int) -> None:
        self._bars = Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            console=err(),
            disable=not sys.stderr.isatty(),
        )
        self._every = max(1, total // LINES)
        self._answered = self._bars.add_task("the system", total=total)
        self._compared = self._bars.add_task("plain decoder", total=total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def answered(self) -> None:
        """The system answered one prompt."""
        self._advance(self._answered)

    def compared(self) -> None:
        """One prompt was decoded plainly and compared."""
        self._advance(self._compared)

    def _advance(self, task: TaskID) -> None:
        self._bars.advance(task)
        shown = next(t for t in self._bars.tasks if t.id == task)
        if self._bars.disable and int(shown.completed) % self._every == 0:
            self._bars.console.print(
                f"{shown.description}: {shown.completed:.0f} of {shown.total:.0f} prompts"
            )
