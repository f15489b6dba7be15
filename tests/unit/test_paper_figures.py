"""The paper's table: cells follow from the pairs, and ratios are the ones they are called."""

from pytest import approx

from benchmarks.paper_cells import (
    BATCHES,
    Cell,
    best_depth,
    best_passes,
    flags_of,
    plan,
    server_only,
    specedge,
)
from benchmarks.paper_figures import CellFigures, figures_of, ratios, usd_at
from benchmarks.paper_sensitivity import predict
from benchmarks.paper_stack import CellOutcome
from benchmarks.scrape import Reading
from specedge.pairs import PAIRS, QWEN3_14B_PAPER, QWEN3_32B_PAPER, tokens_per_round
from specedge.protocol.reports import StepReport

PAIR = QWEN3_14B_PAPER


def figures(cell: Cell, *, tokens_per_s: float, verify_ms: float, draft_ms: float) -> CellFigures:
    """As if measured for ten seconds."""
    steps = [
        StepReport(
            seq=seq, rows=33, prefill=0, context=0, sessions=1, ms=verify_ms, draft_ms=draft_ms
        )
        for seq in range(4)
    ]
    fleet = {
        "rounds": 10,
        "tokens_per_round": 3.5,
        "reached": [1.0, 0.8],
        "passes_per_round": 4.0,
        "passes_saved_per_round": 1.0,
        "hit_rate": 0.25,
        "nodes_per_tree": 32.0,
        "queue_ms": 0.0,
        "trip_ms": 75.0,
        "token_ms": {"mean": 30.0, "p50": 30.0, "p90": 31.0, "p99": 32.0, "count": 2},
        "device_late_ms": None,
        "sessions_failed": 0,
    }
    reading = Reading({"specedge_generation_tokens_total": 10 * tokens_per_s}, {})
    outcome = CellOutcome([fleet], reading, Reading({}, {}), steps, 10.0, {"verifier": 0.1})
    return figures_of(cell, outcome)


def test_the_ratio_and_its_bound_are_those_of_the_measured_times() -> None:
    baseline = figures(
        server_only(PAIR, 1, "", 5, 1, 10), tokens_per_s=30, verify_ms=60, draft_ms=54
    )
    edges = figures(specedge(PAIR, 1, "", 10), tokens_per_s=57, verify_ms=60, draft_ms=0)

    found = ratios(edges, baseline)

    assert edges.depth_used == 5.0
    assert found.throughput == approx(57 / 30)
    assert found.bound == approx(1 + 54 / 60)
    assert found.share == approx(1.0)
    assert found.latency == approx(2 / 1.9 - 1)
    # Two cards at 0.35 beside a device at 4.05 $ an hour.
    assert found.dollars == approx(1.9 * 4.05 / 4.75, rel=1e-4)
    assert edges.usd == approx(usd_at(PAIR, 57, 2))


def test_plain_and_server_only_cost_what_was_published_if_they_run_as_predicted() -> None:
    for pair in (QWEN3_14B_PAPER, QWEN3_32B_PAPER):
        assert pair.published is not None
        round_ms = pair.verify_ms() + pair.draft_ms(5)
        tokens_per_s = tokens_per_round(pair.acceptance, 5) / round_ms * 1e3

        assert usd_at(pair, tokens_per_s, 0) == approx(pair.published.server_only_usd, rel=1e-3)


def test_every_batch_is_measured_with_all_systems_under_one_step_cap() -> None:
    cells = [cell for cell in plan(quick=False) if cell.pair == "14b"]

    for batch in BATCHES:
        systems = {cell.system for cell in cells if cell.batch == batch}
        policies = {cell.policy for cell in cells if cell.batch == batch and cell.policy}
        assert systems == {"plain", "server-only", "specedge"}
        assert policies == {"static", "greedy", "jit"}
        for cell in cells:
            if cell.system == "specedge":
                flags = flags_of(cell).scheduler
                assert flags[flags.index("--max-batch-sessions") + 1] == str(cell.batch)
    assert len({cell.name for cell in cells}) == len(cells)


def test_depths_follow_from_the_pairs_costs() -> None:
    assert best_depth(QWEN3_32B_PAPER, 1) == 5
    assert best_depth(PAIR, 16) > best_depth(PAIR, 1)
    # A longer step leaves the edges more time, and so does a third edge per slot.
    assert best_passes(PAIR, 16) > best_passes(PAIR, 1)
    assert best_passes(PAIR, 1, 3) > best_passes(PAIR, 1, 2)


def test_a_large_cell_is_split_over_several_fleets() -> None:
    flags = flags_of(specedge(PAIR, 32, "", 1))

    edges = [int(each[each.index("--edges") + 1]) for each in flags.fleets]

    assert sum(edges) == 64
    assert len({each[each.index("--fleet") + 1] for each in flags.fleets}) == len(edges) == 16


def test_fleets_of_a_cell_differ_in_their_luck_and_two_runs_do_not() -> None:
    def seeds() -> list[str]:
        flags = flags_of(specedge(PAIR, 8, "", 1))
        return [each[each.index("--seed") + 1] for each in flags.fleets]

    assert len(set(seeds())) == 4
    assert seeds() == seeds()


def test_a_prediction_never_beats_a_verifier_that_is_always_busy() -> None:
    for pair in (PAIRS["14b"], PAIRS["32b"]):
        found = predict(pair)
        round_ms = pair.verify_ms() + pair.draft_ms(5)
        deepest = tokens_per_round(found.acceptance, 16)
        limit = round_ms / pair.verify_ms() * deepest / tokens_per_round(found.acceptance, 5)

        assert 1.0 < found.ratio < limit
