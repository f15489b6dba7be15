"""A fleet of emulated edges on the real scheduler, verifier and broker, as ``make bench-paper`` has
them. Durations are short: what is asserted does not depend on how busy the machine is."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paper_cells import flags_of, server_only, specedge
from benchmarks.paper_figures import figures_of
from benchmarks.paper_stack import recording, run_cell
from specedge.pairs import PAIRS
from specedge.tracing.merging import read_all

PAIR = PAIRS["14b-roofline"]
MEASURE_S = 1.5


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path


async def test_edges_of_a_fleet_are_served_and_recorded(run_dir: Path) -> None:
    cell = replace(specedge(PAIR, 4, "", MEASURE_S), extra=("--warm-up-s", "0.5"))
    flags = recording(flags_of(cell), run_dir / "spans")

    figures = figures_of(cell, await run_cell(run_dir, flags))

    assert figures.failed == 0
    assert max(rows for rows, _, _ in figures.by_rows) <= 4 * 33 + 64
    assert figures.verify_ms >= PAIR.target.step_ms(33)
    assert 1.0 < figures.tokens_per_round < 8.0
    spans = read_all([run_dir / "spans"])
    assert {one.name for one in spans} >= {"verify", "batch", "held", "draft", "away", "ahead"}
    assert len({one.service for one in spans}) == 2 + len(flags.fleets)


async def test_a_verifier_that_drafts_takes_the_pairs_time_for_it(run_dir: Path) -> None:
    cell = server_only(PAIRS["14b"], 2, "", 5, 2, MEASURE_S)
    cell = replace(cell, extra=("--warm-up-s", "0.5"))

    figures = figures_of(cell, await run_cell(run_dir, flags_of(cell)))

    assert figures.failed == 0
    # The machine may be late, never early. That a pass is for both is told without a clock, in
    # ``test_a_pass_for_several_sessions_takes_the_time_of_one``.
    assert figures.draft_ms >= 5 * 11.0
    assert figures.verify_ms >= PAIRS["14b"].verify_ms(1)
