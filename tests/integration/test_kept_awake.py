"""A core that a benchmark keeps awake: by the system, or by somebody who gives way; and only so
long."""

import asyncio
import os
import struct
from pathlib import Path

import pytest

from benchmarks.awake import can_keep_awake, pausing, polling


def test_the_system_is_asked_for_no_latency_where_it_may_be(tmp_path: Path) -> None:
    latency = tmp_path / "latency"
    latency.touch()

    with polling(latency) as is_polling:
        assert is_polling
        assert latency.read_bytes() == struct.pack("i", 0)
    with polling(tmp_path / "no" / "such") as is_polling:
        assert not is_polling


@pytest.mark.skipif(not can_keep_awake(), reason="no idle priority on this system")
async def test_a_core_is_kept_busy_at_idle_priority_and_let_go() -> None:
    core = str(min(os.sched_getaffinity(0)))

    async with pausing([core]), asyncio.timeout(60.0):
        [pid] = [child for child in _children() if b"benchmarks.awake" in _command(child)]
        while os.sched_getscheduler(pid) != os.SCHED_IDLE or _ticks(pid) < 5:
            await asyncio.sleep(0.02)
        assert os.sched_getaffinity(pid) == {int(core)}

    assert pid not in _children()


def _children() -> list[int]:
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11])
