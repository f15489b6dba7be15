"""A stretch of a timeline as a picture: what the verifiers compute, and under it what every edge
does meanwhile, as the first figure of arXiv 2505.17052 sketches it. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from specedge.errors import InvalidRequest
from specedge.tracing.merging import Span

MAX_EDGES: Final = 12
ROW_INCHES, LEAST_INCHES, WIDTH_INCHES = 0.45, 2.0, 14.0
BAR: Final = 0.8
WAITING: Final = "#e4e7eb"
SERVER_DRAFT: Final = "#c9b5dd"
AHEAD: Final = 0.45  # opacity of what is drafted on chance
COLOURS: Final = ("#3b76c4", "#d9762b", "#4f9d69", "#b8475a", "#7a63b8", "#8a6d3b")


def draw(spans: Sequence[Span], path: Path, *, from_s: float, until_s: float) -> None:
    """Write a PNG of the stretch. Raises InvalidRequest without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415, RUF100 - optional
    except ImportError as error:
        message = "drawing needs matplotlib: pip install matplotlib"
        raise InvalidRequest(message, field="png") from error
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415, RUF100 - as above

    verifiers = list(dict.fromkeys(one.service for one in spans if one.lane == "device"))
    edges = _edges(spans)
    rows = [*verifiers, *edges]
    height = max(LEAST_INCHES, ROW_INCHES * len(rows) + 1.0)
    figure, axis = pyplot.subplots(figsize=(WIDTH_INCHES, height), layout="constrained")
    colours = {edge: COLOURS[number % len(COLOURS)] for number, edge in enumerate(edges)}
    for span in spans:
        row = _row_of(span, rows)
        if row is not None:
            _bar(axis, span, row, colours)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(from_s * 1e3, until_s * 1e3)
    axis.set_xlabel("milliseconds")
    axis.set_title(
        "verifier: bars in the colours of the edges whose drafts they verify · edges: solid: "
        "drafting, pale: drafting ahead, grey: the draft is away",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _edges(spans: Sequence[Span]) -> list[str]:
    """The first so many edges, by the beginning of their names."""
    seen = dict.fromkeys(
        span.lane.split()[0]
        for span in spans
        if span.name in ("draft", "away", "ahead") and span.lane != "device"
    )
    return list(seen)[:MAX_EDGES]


def _row_of(span: Span, rows: Sequence[str]) -> int | None:
    if span.lane == "device":
        return rows.index(span.service)
    edge = span.lane.split()[0]
    return rows.index(edge) if edge in rows and span.name in ("draft", "away", "ahead") else None


def _bar(axis: Any, span: Span, row: int, colours: dict[str, str]) -> None:
    start_ms, length_ms = span.start_s * 1e3, (span.end_s - span.start_s) * 1e3
    if span.lane == "device":
        _verifier_bar(axis, span, row, colours)
        return
    colour = colours[span.lane.split()[0]]
    if span.name == "away":
        axis.barh(row, length_ms, left=start_ms, height=BAR, color=WAITING, zorder=1)
    else:
        alpha = AHEAD if span.name == "ahead" else 1.0
        height = BAR if span.name == "draft" else BAR / 2
        axis.barh(
            row,
            length_ms,
            left=start_ms,
            height=height,
            color=colour,
            alpha=alpha,
            zorder=2,
            edgecolor="white",
            linewidth=0.5,
        )


def _verifier_bar(axis: Any, span: Span, row: int, colours: dict[str, str]) -> None:
    """One stripe for each edge in the step."""
    start_ms, length_ms = span.start_s * 1e3, (span.end_s - span.start_s) * 1e3
    if span.name == "draft":
        axis.barh(row, length_ms, left=start_ms, height=BAR, color=SERVER_DRAFT)
        return
    edges = str(span.facts.get("edges", "")).split() or [""]
    stripe = BAR / len(edges)
    for number, edge in enumerate(edges):
        axis.barh(
            row - BAR / 2 + stripe * (number + 0.5),
            length_ms,
            left=start_ms,
            height=stripe,
            color=colours.get(edge, "#9aa0a6"),
        )
    axis.barh(
        row, length_ms, left=start_ms, height=BAR, fill=False, edgecolor="#333333", linewidth=0.6
    )
