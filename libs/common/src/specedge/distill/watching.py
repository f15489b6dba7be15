"""Progress of a distillation for the person who waits: bars on a terminal, lines elsewhere, on
stderr; and the two ways to stop it, a time limit and Ctrl-C."""

import signal
import sys
import time
from types import FrameType
from typing import Final, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from specedge.cli.console import err
from specedge.distill import training

LINE_EVERY_S: Final = 30.0


class Watch:
    """A ``Watcher``. Inside its context Ctrl-C and SIGTERM end the stage at its next safe place."""

    def __init__(self, limit_s: float | None) -> None:
        self._end_s = None if limit_s is None else time.perf_counter() + limit_s
        self._is_stopped = False
        self._lined_s: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=err(),
            disable=not sys.stderr.isatty(),
        )
        self._tasks = {
            name: self._bars.add_task(name, total=1, visible=False, note="")
            for name in ("sample", "train")
        }

    def __enter__(self) -> Self:
        self._previous = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or the time limit ended it."""
        return self._is_stopped or (self._end_s is not None and time.perf_counter() >= self._end_s)

    def sampled(self, tokens: int, wanted: int) -> bool:
        """See ``Watcher.sampled``."""
        self._show("sample", tokens, wanted, "")
        return not self.is_stopped

    def trained(self, progress: training.Progress, wanted_tokens: int) -> bool:
        """See ``Watcher.trained``."""
        note = f"loss {progress.loss:.3f}"
        if progress.history:
            last = progress.history[-1]
            note += f", held out {last['loss']:.3f}, top-1 {last['top_1']:.3f}"
            note += f", chain {last['chain']:.2f}"
        self._show("train", progress.tokens, wanted_tokens, note)
        return not self.is_stopped

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopped = True

    def _show(self, name: str, done: int, wanted: int, note: str) -> None:
        self._bars.update(
            self._tasks[name], completed=min(done, wanted), total=wanted, note=note, visible=True
        )
        now_s = time.perf_counter()
        is_due = done >= wanted or now_s - self._lined_s.get(name, -LINE_EVERY_S) >= LINE_EVERY_S
        if self._bars.disable and is_due:
            self._lined_s[name] = now_s
            self._bars.console.print(f"{name}: {done:,} of {wanted:,} tokens {note}".rstrip())
