"""A comparison's tables, and the ratios that it is about. Pure but for printing."""

from collections.abc import Callable, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.columns import Column, Figures, Kind
from benchmarks.figures import Goal
from benchmarks.plan import Measured, Results

WIDTH: Final = 152
NOTHING: Final = "–"

_Cell = Callable[[Figures], str]


def _number(read: Callable[[Figures], float | None], digits: int) -> _Cell:
    def cell(of: Figures) -> str:
        value = read(of)
        return NOTHING if value is None else f"{value:.{digits}f}"

    return cell


SPEED: Final[dict[str, _Cell]] = {
    "tok/s": _number(lambda f: f.tokens_per_s, 2),
    "tok/busy s": _number(lambda f: f.tokens_per_busy_s, 2),
    "decoding": _number(lambda f: f.tokens_per_busy_s_decoding, 2),
    "busy": lambda f: f"{f.busy_share:.0%}",
    "step ms": _number(lambda f: f.step_ms, 1),
    "ms/tok": _number(lambda f: f.time_per_token_ms, 1),
    "p50": _number(lambda f: f.time_per_token_p50_ms, 1),
    "p99": _number(lambda f: f.time_per_token_p99_ms, 1),
    "first ms": _number(lambda f: f.time_to_first_p50_ms, 0),
}
ROUNDS: Final[dict[str, _Cell]] = {
    "rounds": lambda f: str(f.rounds),
    "length": _number(lambda f: f.acceptance_length, 2),
    "nodes": _number(lambda f: f.nodes, 1),
    "bytes": _number(lambda f: f.bytes, 0),
    "draft ms": _number(lambda f: f.draft_ms, 1),
    "pass ms": _number(lambda f: f.pass_ms, 1),
    "hits": lambda f: NOTHING if f.hit_rate is None else f"{f.hit_rate:.0%}",
    "ahead": lambda f: NOTHING if f.ahead_rate is None else f"{f.ahead_rate:.0%}",
    "reused": _number(lambda f: f.nodes_reused, 1),
    "saved": _number(lambda f: f.passes_saved, 2),
    "reply": _number(lambda f: f.reply_p50_ms, 1),
    "p99": _number(lambda f: f.reply_p99_ms, 1),
}
DEPTHS: Final = 8
GOALS: Final[dict[str, Goal]] = {
    "busy_over_plain": Goal("tok/busy s\nover plain", at_least=1.4),
    "busy_over_server_only": Goal("tok/busy s\nover server", at_least=1.25),
    "speed_over_plain": Goal("tok/s\nover plain"),
    "speed_over_server_only": Goal("tok/s\nover server"),
    "time_over_plain": Goal("ms/tok\nover plain"),
    "time_over_server_only": Goal("ms/tok\nover server", at_most=1.0),
    "time_over_waiting": Goal("ms/tok\nover waiting", at_most=0.9),
    "reply_p99_later_ms": Goal("reply p99\nlater, ms"),
    "time_over_fixed": Goal("ms/tok\nover fixed", at_most=1.05),
}


def show(results: Results) -> None:
    """All tables on stdout, the ratios last."""
    console = Console(width=WIDTH)
    console.print(_table("sweeps: the best by tok/s is used below", results.sweeps, SPEED))
    for streams in dict.fromkeys(each.column.streams for each in results.columns):
        here = [each for each in results.columns if each.column.streams == streams]
        title = "one stream at a time" if streams == 1 else f"{streams} streams at a time"
        console.print(_table(f"{title}: speed", here, SPEED))
        console.print(_table(f"{title}: rounds", here, ROUNDS))
        console.print(_table(f"{title}: rounds whose path reached a depth", here, _depths()))
    console.print(_ratio_table(results))
    same = sum(each.same_texts for each in results.columns)
    all_texts = sum(each.texts for each in results.columns)
    console.print(f"texts equal to the plain column's: {same} of {all_texts}")
    loads = [each.figures.load_1min for each in results.columns]
    console.print(f"load average meanwhile: {min(loads):.1f} to {max(loads):.1f}")


def _depths() -> dict[str, _Cell]:
    def reached(depth: int) -> _Cell:
        return lambda f: f"{f.reached[depth - 1]:.0%}" if len(f.reached) >= depth else NOTHING

    return {str(depth): reached(depth) for depth in range(1, DEPTHS + 1)}


def _ratio_table(results: Results) -> Table:
    table = _bare("proactive SpecEdge over the baselines at their shortest round trip")
    for heading in ("system", "streams", "link"):
        table.add_column(heading, no_wrap=True)
    for goal in GOALS.values():
        table.add_column(f"{goal.meaning}\n{goal.text}", justify="right")
    for each in _proactive(results):
        found = _ratios_of(each, results)
        column = each.column
        cells = [_marked(goal, found.get(key)) for key, goal in GOALS.items()]
        load = (str(column.streams), f"{column.round_trip_ms:g} ms")
        table.add_row(column.system, *load, *cells)
    return table


def _marked(goal: Goal, value: float | None) -> str:
    if value is None:
        return NOTHING
    colour = {"met": "green", "not met": "red"}.get(goal.verdict(value), "default")
    return f"[{colour}]{value:.2f}[/]"


def _proactive(results: Results) -> list[Measured]:
    return [each for each in results.columns if each.column.proactive]


def ratios(results: Results) -> dict[str, float]:
    """Under flat keys, ``<ratio>_<streams>_streams_<edges>_edges_<round trip>_ms``, with
    ``_adaptive`` behind where the edge chose its drafts' sizes."""
    found: dict[str, float] = {}
    for each in _proactive(results):
        column = each.column
        place = f"{column.streams}_streams_{column.edges}_edges_{column.round_trip_ms:g}_ms"
        place += "_adaptive" if _is_adaptive(column) else ""
        for key, value in _ratios_of(each, results).items():
            found[f"{key}_{place}"] = value
    return found


def _ratios_of(ours: Measured, results: Results) -> dict[str, float]:
    mine, columns = ours.figures, results.columns
    plain = _baseline(columns, Kind.PLAIN, ours.column.streams)
    server_only = _baseline(columns, Kind.SERVER_ONLY, ours.column.streams)
    is_adaptive = _is_adaptive(ours.column)
    waiting = _sibling(columns, ours.column, proactive=False, adaptive=is_adaptive)
    fixed = None
    if is_adaptive and _is_swept(results, ours.column):
        fixed = _sibling(columns, ours.column, proactive=True, adaptive=False)
    found: dict[str, float] = {}
    for name, theirs in (("plain", plain), ("server_only", server_only)):
        if theirs is not None:
            found[f"busy_over_{name}"] = mine.tokens_per_busy_s / theirs.tokens_per_busy_s
            found[f"speed_over_{name}"] = mine.tokens_per_s / theirs.tokens_per_s
            found[f"time_over_{name}"] = mine.time_per_token_ms / theirs.time_per_token_ms
    if waiting is not None:
        found["time_over_waiting"] = mine.time_per_token_ms / waiting.time_per_token_ms
        if mine.reply_p99_ms is not None and waiting.reply_p99_ms is not None:
            found["reply_p99_later_ms"] = mine.reply_p99_ms - waiting.reply_p99_ms
    if fixed is not None:
        found["time_over_fixed"] = mine.time_per_token_ms / fixed.time_per_token_ms
    return found


def _is_adaptive(column: Column) -> bool:
    return column.setting is not None and column.setting.is_controller


def _is_swept(results: Results, ours: Column) -> bool:
    """Whether the fixed sizes were tried on that link: elsewhere the one that is used is the best
    of another."""
    return any(
        (tried.kind, tried.streams, tried.round_trip_ms)
        == (ours.kind, ours.streams, ours.round_trip_ms)
        for tried in (each.column for each in results.sweeps)
    )


def _baseline(columns: Sequence[Measured], kind: Kind, streams: int) -> Figures | None:
    """At the shortest round trip."""
    those = [
        each for each in columns if each.column.kind is kind and each.column.streams == streams
    ]
    nearest = min(those, key=lambda each: each.column.round_trip_ms, default=None)
    return None if nearest is None else nearest.figures


def _sibling(
    columns: Sequence[Measured], ours: Column, *, proactive: bool, adaptive: bool
) -> Figures | None:
    """Edges with such drafts, proactive or not, under the same load."""
    for each in columns:
        theirs = each.column
        if (
            theirs.kind is ours.kind
            and theirs.proactive == proactive
            and _is_adaptive(theirs) == adaptive
            and (theirs.streams, theirs.edges, theirs.round_trip_ms)
            == (ours.streams, ours.edges, ours.round_trip_ms)
        ):
            return each.figures
    return None


def _bare(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, title_justify="left")


def _table(title: str, rows: Sequence[Measured], cells: dict[str, _Cell]) -> Table:
    table = _bare(title)
    for heading in ("system", "link", "drafts"):
        table.add_column(heading, no_wrap=True)
    for heading in cells:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        column = row.column
        table.add_row(
            column.system,
            f"{column.round_trip_ms:g} ms",
            str(column.setting) if column.setting else NOTHING,
            *(cell(row.figures) for cell in cells.values()),
        )
    return table
