"""Reads the spans that services wrote, and puts them on one time axis. No drawing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from specedge.errors import InvalidRequest

# Both ends of a span are put on one grid: viewers drop spans that partly overlap on a lane. Floats
# hold eighths of a microsecond exactly, so what a viewer adds up and multiplies stays on it.
TICKS_PER_US: Final = 8
TICKS_PER_S: Final = TICKS_PER_US * 1e6


@dataclass(frozen=True, slots=True)
class Span:
    """``service`` did ``name`` on ``lane``, in seconds of the merged axis. A mark starts and ends
    at once."""

    service: str
    lane: str
    name: str
    start_s: float
    end_s: float
    facts: dict[str, Any] = field(default_factory=dict)


def read_all(paths: Sequence[Path]) -> list[Span]:
    """The spans of all files, and of all ``.jsonl`` files in folders, by start, beginning at 0.

    A file's monotonic clock is put on the wall clock as the two stood at the file's end. So files
    of machines whose wall clocks disagree are as far apart as those, and files of one machine as
    far as its wall clock was set between their ends. Raises InvalidRequest for what no service
    wrote, and if there is nothing.
    """
    spans = [span for path in _files(paths) for span in _read(path)]
    if not spans:
        raise InvalidRequest("there are no spans: run services with --spans-file", field="files")
    spans.sort(key=lambda span: span.start_s)
    zero_s = spans[0].start_s
    return [
        Span(one.service, one.lane, one.name, one.start_s - zero_s, one.end_s - zero_s, one.facts)
        for one in spans
    ]


def within(spans: Iterable[Span], from_s: float, until_s: float) -> list[Span]:
    """Those that touch the stretch."""
    return [span for span in spans if span.start_s < until_s and span.end_s >= from_s]


def chrome_trace(spans: Sequence[Span]) -> bytes:
    """The JSON that Perfetto and chrome://tracing open: a process per service, a thread per
    lane."""
    processes: dict[str, int] = {}
    threads: dict[tuple[str, str], int] = {}
    events: list[dict[str, Any]] = []
    for span in spans:
        if span.service not in processes:
            processes[span.service] = len(processes) + 1
            events.append(_named("process_name", processes[span.service], 0, span.service))
        process, lane = processes[span.service], (span.service, span.lane)
        if lane not in threads:
            threads[lane] = len(threads) + 1
            events.append(_named("thread_name", process, threads[lane], span.lane))
        events.append(_event(span, process, threads[lane]))
    return orjson.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _event(span: Span, process: int, thread: int) -> dict[str, Any]:
    start, end = round(span.start_s * TICKS_PER_S), round(span.end_s * TICKS_PER_S)
    event: dict[str, Any] = {
        "name": span.name,
        "ph": "X",
        "ts": start / TICKS_PER_US,
        "dur": (end - start) / TICKS_PER_US,
        "pid": process,
        "tid": thread,
        "args": span.facts,
    }
    if span.end_s <= span.start_s:
        event |= {"ph": "i", "s": "t"}
        del event["dur"]
    return event


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.glob("*.jsonl"))
        else:
            yield path


def _read(path: Path) -> Iterator[Span]:
    try:
        written = path.read_bytes().splitlines()
        if not written:
            raise ValueError("it is empty")
        header, *lines = written
        said = orjson.loads(header)
        offset_s = float(said["wall_s"]) - float(said["at_s"])
        for line in lines:
            lane, name, start_s, end_s, facts = orjson.loads(line)
            yield Span(said["service"], lane, name, start_s + offset_s, end_s + offset_s, facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} holds no spans: {error}", field="files") from error
