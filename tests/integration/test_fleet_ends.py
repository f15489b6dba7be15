"""Fleets that a benchmark started are gone when it ends, whatever the others did."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.paper_cells import flags_of, specedge
from benchmarks.paper_stack import CellFlags, run_cell
from specedge.pairs import PAIRS

ENDS_WITHIN_S = 60.0


def failures_of(group: BaseExceptionGroup[BaseException]) -> list[str]:
    return [
        text
        for one in group.exceptions
        for text in (failures_of(one) if isinstance(one, BaseExceptionGroup) else [str(one)])
    ]


async def test_where_one_fleet_fails_the_ready_ones_do_not_hold_the_benchmark_up(
    tmp_path: Path,
) -> None:
    cell = flags_of(specedge(PAIRS["14b-roofline"], 1, "", 1.0))
    wrong = [*cell.fleets[0], "--pair", "of-nobody"]
    flags = CellFlags(cell.scheduler, cell.verifier, [*cell.fleets, wrong])

    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.timeout(ENDS_WITHIN_S):
            await run_cell(tmp_path, flags)

    assert "the fleet exited with code 2" in "".join(failures_of(caught.value))
    # The ready one was asked to end, and did: nobody had to kill it.
    assert "drain_started" in (tmp_path / "fleet-0.log").read_text()
