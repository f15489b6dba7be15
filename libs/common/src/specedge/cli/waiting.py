"""Waits until processes are ready, and says how far each has come.

Reads `/ready` (200, or 503 with the load phase and percent). On a terminal the progress is drawn
live, elsewhere each step is a line.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from specedge.cli.child import Child
from specedge.cli.console import err

POLL_S: Final = 0.2
PROBE_TIMEOUT_S: Final = 2.0
LOADED: Final = "loaded"
LINE_EVERY_PERCENT: Final = 25


@dataclass(frozen=True, slots=True)
class Progression:
    """How far one process has come; ``percent`` of the phase, None where that is not known."""

    phase: str
    percent: float | None = None
    is_ready: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """``process`` does without ``what``, for the reason ``why``."""

    process: str
    what: str
    why: str


STARTING: Final = Progression("starting")
READY: Final = Progression("ready", 100.0, is_ready=True)


async def watch_readiness(child: Child, on_change: Callable[[str, Progression], None]) -> None:
    """Ask the child again and again, through all its restarts; sets its ``ready``.

    Runs until cancelled.
    """
    last: Progression | None = None
    async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
        while True:
            if not child.ready.is_set():
                now = await _probe(client, child, last or STARTING)
                if now != last:
                    on_change(child.name, now)
                    last = now
                if now.is_ready:
                    child.ready.set()
            await asyncio.sleep(POLL_S)


async def until_ready(children: Sequence[Child]) -> None:
    """Return when each has become ready."""
    for child in children:
        await child.ready.wait()


async def read_notes(children: Sequence[Child]) -> list[Note]:
    """What processes that are ready do without."""
    async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
        return [note for child in children for note in await _notes_of(client, child)]


async def _notes_of(client: httpx.AsyncClient, child: Child) -> list[Note]:
    try:
        notes = (await client.get(f"{child.http_url}/ready")).json().get("notes", {})
        return [Note(child.name, str(what), str(why)) for what, why in notes.items()]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError):
        return []  # it died meanwhile, which is told elsewhere


async def _probe(client: httpx.AsyncClient, child: Child, last: Progression) -> Progression:
    url = child.http_url
    if url is None:
        return STARTING
    try:
        response = await client.get(f"{url}/ready")
    except httpx.TimeoutException:  # an import, or a machine with much to do: it is where it was
        return last
    except httpx.HTTPError:
        return STARTING
    if url != child.http_url:  # it died and came back while we asked
        return STARTING
    if response.is_success:
        return READY
    try:
        return read_progress(response.json())
    except ValueError:
        return STARTING


def read_progress(body: dict[str, Any]) -> Progression:
    """The body of a 503 from `/ready`."""
    reasons, phase = body.get("reasons") or [], body.get("phase") or "starting"
    if phase == LOADED and reasons:  # it has done its part, and waits for somebody else
        return Progression(str(reasons[0]))
    percent = body.get("percent")
    return Progression(str(phase), None if percent is None else float(percent))


class ProgressDisplay:
    """Shows each process's progress on stderr. A context manager; drawn only while entered."""

    def __init__(self, names: Sequence[str]) -> None:
        self._console = err()
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._said: dict[str, tuple[str, int]] = {}
        self._drawing = False
        if sys.stderr.isatty():
            self._bars = Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[phase]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            for name in names:
                self._tasks[name] = self._bars.add_task(name, total=100, phase="starting")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
            self._drawing = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._drawing = False

    def notice(self, text: str) -> None:
        """A line that stays, above the bars."""
        self._console.print(text, markup=False)

    def show(self, name: str, now: Progression) -> None:
        """The process called ``name`` has come so far."""
        if self._bars is not None and self._drawing:
            self._bars.update(self._tasks[name], completed=now.percent or 0, phase=now.phase)
            return
        step = int((now.percent or 0) // LINE_EVERY_PERCENT)
        if self._said.get(name) != (now.phase, step):
            self._said[name] = (now.phase, step)
            percent = f" {now.percent:.0f} %" if now.percent and not now.is_ready else ""
            self.notice(f"{name}: {now.phase}{percent}")
