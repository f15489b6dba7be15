"""What a service did when, for pictures: a bounded ring of spans, off unless a file is asked for.

Recording one costs an append; none is written before the service ends. Times are the service's
own monotonic seconds; the file's first line says what the wall clock showed, so that files of
several machines can be merged as well as their clocks agree. Knows nothing of what is drawn.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson
import structlog

from specedge.clock import Clock
from specedge.errors import InvalidRequest

KEPT: Final = 200_000  # the newest; a busy verifier makes some fifty a second

_log = structlog.get_logger("specedge.service")

Fact = str | int | float


class SpanRing:
    """``capacity`` 0: records nothing. ``add`` may be called from any thread."""

    __slots__ = ("_spans", "is_on")

    def __init__(self, capacity: int = 0) -> None:
        self.is_on = capacity > 0
        self._spans: deque[tuple[str, str, float, float, dict[str, Fact]]] = deque(maxlen=capacity)

    def add(self, lane: str, name: str, start_s: float, end_s: float, **facts: Fact) -> None:
        """``name`` was done from ``start_s`` to ``end_s`` on ``lane``, a row of the picture; the
        same moment twice is a mark."""
        if self.is_on:
            self._spans.append((lane, name, start_s, end_s, facts))

    def lines(self) -> Iterator[bytes]:
        """A JSON array a span, oldest first."""
        for span in self._spans:
            yield orjson.dumps(span)


NO_SPANS: Final = SpanRing()


@contextlib.contextmanager
def recording(path: Path | None, service: str, clock: Clock) -> Iterator[SpanRing]:
    """A ring for as long as the block lasts; its spans are in ``path`` afterwards. None: off.

    Raises InvalidRequest where there can be no such file: not at the end, when all is recorded.
    """
    if path is None:
        yield NO_SPANS
        return
    _make(path, _header(service, clock))
    ring = SpanRing(KEPT)
    try:
        yield ring
    finally:
        try:
            path.write_bytes(b"\n".join([_header(service, clock), *ring.lines()]) + b"\n")
        except OSError as error:
            _log.error("spans_not_written", path=str(path), reason=str(error))


def _header(service: str, clock: Clock) -> bytes:
    wall_s = datetime.now(UTC).timestamp()
    return orjson.dumps({"service": service, "wall_s": wall_s, "at_s": clock.now_s()})


def _make(path: Path, header: bytes) -> None:
    """A file of no spans, which whoever reads it understands; what an earlier run wrote stays until
    there is something to put in its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() == 0:
                file.write(header + b"\n")
    except OSError as error:
        raise InvalidRequest(f"spans_file: {path}: {error.strerror}", field="spans_file") from None
