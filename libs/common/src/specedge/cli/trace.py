"""`specedge trace`: what services recorded, as one timeline."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from specedge.errors import InvalidRequest
from specedge.tracing.merging import Span, chrome_trace, read_all, within
from specedge.tracing.picture import draw


def run_trace(
    files: Sequence[Path], out: Path, png: Path | None, from_s: float | None, for_s: float
) -> None:
    """Merge ``files`` into ``out``, and draw ``for_s`` seconds from ``from_s`` (the middle, if not
    given) into ``png``. Raises InvalidRequest, before anything is written."""
    if png is not None and png.suffix.lower() != ".png":
        raise InvalidRequest(f"{png}: pictures are PNG, so a name ends in .png", field="png")
    if from_s is not None and not math.isfinite(from_s):
        raise InvalidRequest("--from is a number of seconds", field="from")
    if not (math.isfinite(for_s) and for_s > 0):
        raise InvalidRequest("--for is a positive number of seconds", field="for")
    spans = read_all(files)
    begin_s = _middle_s(spans) - for_s / 2 if from_s is None else from_s
    shown = within(spans, begin_s, begin_s + for_s)
    if png is not None and not shown:
        last_s = max(span.end_s for span in spans)
        message = f"{for_s:g} s from {begin_s:g} s hold nothing: spans are from 0 to {last_s:.2f} s"
        raise InvalidRequest(message, field="from")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(chrome_trace(spans))
    console = Console(stderr=True)
    console.print(f"{len(spans)} spans of {len({one.service for one in spans})} services: {out}")
    console.print("[dim]Open it at https://ui.perfetto.dev or chrome://tracing.[/]")
    if png is not None:
        draw(shown, png, from_s=begin_s, until_s=begin_s + for_s)
        console.print(f"{for_s:g} s from {begin_s:.2f} s: {png}")


def _middle_s(spans: Sequence[Span]) -> float:
    """Of the verifiers' work, by steps and not by time: between two of them may be a long rest, in
    which there is nothing to see."""
    steps = [span for span in spans if span.name == "verify"] or list(spans)
    middle = steps[len(steps) // 2]
    return (middle.start_s + middle.end_s) / 2
