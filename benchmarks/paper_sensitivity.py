"""How far the prediction for batch 1 depends on the numbers that nobody published. A model in
closed form beside the measurement: acceptance is solved anew from the published price of
server-only speculation for every choice, so the baseline always costs the same.

A round of an edge either misses, and then drafts as many levels as the verifier's time allows; or
hits, and then has those as well that it drafted ahead.
"""

from dataclasses import dataclass, replace

from rich.table import Table

from benchmarks.paper_cells import EDGES_PER_SLOT, MAX_DEPTH, OVERHEAD_MS
from specedge.pairs import (
    QWEN3_14B_PAPER,
    QWEN3_32B_PAPER,
    SERVER_ONLY_DEPTH,
    Pair,
    solve_acceptance,
    tokens_per_round,
)
from specedge.profiles import PAPER_WAN


@dataclass(frozen=True, slots=True)
class Predicted:
    """``hit_rate`` and ``depth`` are of the rounds of an edge."""

    acceptance: float
    passes: int
    hit_rate: float
    depth: float
    ratio: float
    usd: float


def predict(
    pair: Pair, *, server_depth: int = SERVER_ONLY_DEPTH, round_trip_ms: float | None = None
) -> Predicted:
    """For batch 1 and two edges; the best number of passes after a verdict."""
    trip_ms = PAPER_WAN.round_trip_ms if round_trip_ms is None else round_trip_ms
    assert pair.published is not None
    acceptance = solve_acceptance(
        pair.target, pair.server_drafter, pair.published.server_only_usd, server_depth
    )
    round_ms = pair.verify_ms() + pair.draft_ms(server_depth)
    baseline = tokens_per_round(acceptance, server_depth) / round_ms
    each = [_with_passes(pair, acceptance, passes, trip_ms) for passes in range(1, MAX_DEPTH)]
    rate, passes, hit_rate, depth = max(each)
    per_hour = pair.target.usd_per_hour + EDGES_PER_SLOT * pair.edge_drafter.usd_per_hour
    usd = per_hour / 3600 / (rate * 1e3) * 1e6
    return Predicted(acceptance, passes, hit_rate, depth, rate / baseline, usd)


def _with_passes(
    pair: Pair, acceptance: float, passes: int, trip_ms: float
) -> tuple[float, int, float, float]:
    """Tokens a millisecond, passes, hit rate, levels."""
    verify_ms, pass_ms = pair.verify_ms(), pair.edge_drafter.draft_pass_ms
    cycle_ms = max(verify_ms, passes * pass_ms + trip_ms + OVERHEAD_MS)
    ahead = int((trip_ms + verify_ms) / pass_ms)
    deep = min(MAX_DEPTH, passes + max(0, ahead - 1))
    after_miss, after_hit = acceptance ** (passes + 1), acceptance ** (deep + 1)
    hit_rate = after_miss / (1.0 + after_miss - after_hit)
    tokens = (1.0 - hit_rate) * tokens_per_round(acceptance, passes)
    tokens += hit_rate * tokens_per_round(acceptance, deep)
    return tokens / cycle_ms, passes, hit_rate, (1.0 - hit_rate) * passes + hit_rate * deep


def sensitivity() -> Table:
    """One number changed at a time."""
    table = Table(title="predicted at batch 1, one free number changed at a time")
    for name in ("pair", "changed", "acceptance", "passes", "hits", "depth", "tok/s ×", "$/M"):
        table.add_column(name, justify="left" if name in ("pair", "changed") else "right")
    for pair in (QWEN3_14B_PAPER, QWEN3_32B_PAPER):
        for what, found in _variations(pair):
            table.add_row(
                pair.name,
                what,
                f"{found.acceptance:.3f}",
                str(found.passes),
                f"{found.hit_rate:.2f}",
                f"{found.depth:.1f}",
                f"{found.ratio:.2f}",
                f"{found.usd:.1f}",
            )
        table.add_section()
    return table


def _variations(pair: Pair) -> list[tuple[str, Predicted]]:
    roofline_row_ms = 2 * _parameters(pair) / 312e9
    rows = [("nothing", predict(pair))]
    rows += [
        (f"a pass takes {ms:g} ms, everywhere", predict(_with_pass(pair, ms, ms)))
        for ms in (8.0, 14.0)
    ]
    rows += [
        (f"a pass takes {ms:g} ms on edges", predict(_with_pass(pair, None, ms)))
        for ms in (6.0, 8.5)
    ]
    rows += [
        (f"server-only drafted {depth} levels", predict(pair, server_depth=depth))
        for depth in (4, 6, 8)
    ]
    cheap = replace(pair, target=replace(pair.target, row_ms=roofline_row_ms))
    rows.append(("a row costs what the roofline says", predict(cheap)))
    rows += [(f"round trip {ms:g} ms", predict(pair, round_trip_ms=ms)) for ms in (0.0, 50.0)]
    return rows


def _with_pass(pair: Pair, server_ms: float | None, edge_ms: float) -> Pair:
    server = pair.server_drafter
    return replace(
        pair,
        server_drafter=server if server_ms is None else replace(server, draft_pass_ms=server_ms),
        edge_drafter=replace(pair.edge_drafter, draft_pass_ms=edge_ms),
    )


def _parameters(pair: Pair) -> float:
    from specedge.profiles import QWEN3_14B, QWEN3_32B

    return QWEN3_14B if pair.name == "14b" else QWEN3_32B
