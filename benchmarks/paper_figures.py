"""From what a cell's processes counted to its figures, and what they must be held against."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.paper_cells import EDGES_PER_SLOT, Cell
from benchmarks.paper_stack import CellOutcome
from specedge.pairs import PAIRS, Pair, tokens_per_round

GAP = "specedge_pipeline_stall_seconds"


@dataclass(frozen=True, slots=True)
class CellFigures:
    """One cell, measured. Milliseconds, $ per million tokens, shares of 1.

    verify_ms, verify_rows  mean step and its mean rows; ``by_rows``: (rows, steps, ms) of each size
    draft_ms     the verifier's own drafting, per step: D
    fill         sessions in a step, of those that it may hold
    tokens_per_round, reached   τ, and the share of rounds whose accepted path was at least so long
    depth_used   levels of the trees sent, on average
    hit_rate     verdicts whose bonus the edge had drafted already
    token_ms     a session's time per token
    busy, gap_p99_ms   share of the time in which the verifier's thread worked; from a step's end,
                 when it is heard of, until the next is given to the thread
    in_steps     share of the time in steps and drafting themselves: less what handing over takes
    usd          per million tokens, with the edges' rent
    cpu          share of a core, of each process; late_p99_ms: of the emulated edges' devices
    """

    cell: dict[str, Any]
    tokens_per_s: float
    usd: float
    verify_ms: float
    verify_rows: float
    by_rows: list[tuple[int, int, float]]
    draft_ms: float
    fill: float
    tokens_per_round: float
    reached: list[float]
    depth_used: float
    hit_rate: float
    nodes_per_tree: float
    token_ms: dict[str, float] | None
    queue_ms: float
    trip_ms: float
    busy: float
    gap_mean_ms: float
    gap_p99_ms: float
    cpu: dict[str, float]
    late_p99_ms: float
    failed: int
    in_steps: float = 0.0


def figures_of(cell: Cell, outcome: CellOutcome) -> CellFigures:
    """Of one measurement."""
    verifier, fleets, steps = outcome.verifier, outcome.fleets, outcome.steps
    tokens_per_s = verifier.value("specedge_generation_tokens_total") / outcome.wall_s
    pair = PAIRS[cell.pair]
    usd_per_s = (pair.target.usd_per_hour + cell.num_edges * pair.edge_drafter.usd_per_hour) / 3600
    passes = _mean(fleets, "passes_per_round") + _mean(fleets, "passes_saved_per_round")
    gap_s = verifier.quantile(GAP, 0.99) or 0.0
    gaps = max(1.0, verifier.value(f"{GAP}_count"))
    trips = [fleet["token_ms"] for fleet in fleets if fleet["token_ms"]]
    late = [fleet["device_late_ms"] for fleet in fleets if fleet["device_late_ms"]]
    return CellFigures(
        cell=asdict(cell),
        tokens_per_s=tokens_per_s,
        usd=usd_per_s / max(tokens_per_s, 1e-9) * 1e6,
        verify_ms=_average([step.ms for step in steps]),
        verify_rows=_average([step.rows for step in steps]),
        by_rows=_by_rows([(step.rows, step.ms) for step in steps]),
        draft_ms=_average([step.draft_ms for step in steps]),
        fill=_average([step.sessions for step in steps]) / _slots(cell),
        tokens_per_round=_mean(fleets, "tokens_per_round"),
        reached=_reached(fleets),
        depth_used=passes if cell.system == "specedge" else float(cell.depth),
        hit_rate=_mean(fleets, "hit_rate"),
        nodes_per_tree=_mean(fleets, "nodes_per_tree"),
        token_ms=_merged(trips),
        queue_ms=_mean(fleets, "queue_ms"),
        trip_ms=_mean(fleets, "trip_ms"),
        busy=verifier.value("specedge_verifier_busy_seconds_total") / outcome.wall_s,
        gap_mean_ms=verifier.value(f"{GAP}_sum") / gaps * 1e3,
        gap_p99_ms=gap_s * 1e3,
        cpu={name: round(share, 3) for name, share in outcome.cpu_share.items()},
        late_p99_ms=max((each["p99"] for each in late), default=0.0),
        failed=sum(fleet["sessions_failed"] for fleet in fleets),
        in_steps=sum(step.ms + step.draft_ms for step in steps) / 1e3 / outcome.wall_s,
    )


@dataclass(frozen=True, slots=True)
class Ratios:
    """A cell of edges against server-only speculation on the same devices.

    throughput   tokens a second of the server, ratio    dollars   tokens per dollar, ratio
    latency      change of the time per token
    bound        (1 + D / V) × τ(depth used) / τ(server-only's depth): a verifier that never waits
    share        of the bound that was reached
    """

    throughput: float
    dollars: float
    latency: float
    bound: float

    @property
    def share(self) -> float:
        """See above."""
        return self.throughput / self.bound


def ratios(edges: CellFigures, server_only: CellFigures) -> Ratios:
    """``bound`` takes V, D and the depth used as they were measured, and τ by depth as the pair's
    acceptance says."""
    pair = PAIRS[edges.cell["pair"]]
    throughput = edges.tokens_per_s / server_only.tokens_per_s
    return Ratios(
        throughput=throughput,
        dollars=server_only.usd / edges.usd,
        latency=edges.cell["sessions"] / server_only.cell["sessions"] / throughput - 1.0,
        bound=bound(pair, server_only, edges.depth_used),
    )


def bound(pair: Pair, server_only: CellFigures, depth_used: float) -> float:
    """See ``Ratios``."""
    own = tokens_per_round(pair.acceptance, server_only.cell["depth"])
    gain = _tokens_at(pair.acceptance, depth_used) / own
    return (1.0 + server_only.draft_ms / server_only.verify_ms) * gain


def usd_at(pair: Pair, tokens_per_s: float, num_edges: int) -> float:
    """$ per million tokens, the edges' rent included."""
    per_hour = pair.target.usd_per_hour + num_edges * pair.edge_drafter.usd_per_hour
    return per_hour / 3600 / tokens_per_s * 1e6


def _tokens_at(acceptance: float, depth: float) -> float:
    """τ between whole depths: straight."""
    below = int(depth)
    low = tokens_per_round(acceptance, below)
    return low + (depth - below) * (tokens_per_round(acceptance, below + 1) - low)


def _slots(cell: Cell) -> int:
    per_slot = 2 if cell.variant == "twice the batch" else 1
    return cell.batch * per_slot


def _by_rows(steps: Sequence[tuple[int, float]]) -> list[tuple[int, int, float]]:
    grouped: defaultdict[int, list[float]] = defaultdict(list)
    for rows, ms in steps:
        grouped[rows].append(ms)
    return [(rows, len(each), _average(each)) for rows, each in sorted(grouped.items())]


def _mean(fleets: Sequence[Mapping[str, Any]], key: str) -> float:
    """Over fleets, weighted by their rounds."""
    rounds = sum(fleet["rounds"] for fleet in fleets)
    return sum(fleet[key] * fleet["rounds"] for fleet in fleets) / max(1, rounds)


def _reached(fleets: Sequence[Mapping[str, Any]]) -> list[float]:
    rounds = sum(fleet["rounds"] for fleet in fleets)
    deepest = max(len(fleet["reached"]) for fleet in fleets)
    totals = [0.0] * deepest
    for fleet in fleets:
        for depth, share in enumerate(fleet["reached"]):
            totals[depth] += share * fleet["rounds"] / max(1, rounds)
    return [round(total, 4) for total in totals]


def _merged(each: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Of several fleets: the mean of means, the worst of percentiles."""
    if not each:
        return None
    count = sum(one["count"] for one in each)
    merged = {key: max(one[key] for one in each) for key in ("p50", "p90", "p99")}
    merged["mean"] = sum(one["mean"] * one["count"] for one in each) / count
    return merged


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


assert EDGES_PER_SLOT >= 2, "with one edge a slot the verifier waits for every round trip"
