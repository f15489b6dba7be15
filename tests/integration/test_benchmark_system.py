"""The system that the comparison measures, with real processes and emulated models."""

from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.bench_system import Cloud, cloud
from benchmarks.columns import (
    Column,
    Kind,
    Observed,
    Prefill,
    Setting,
    figures_of,
    same_texts,
)
from benchmarks.observing import EDGE_DRAFTS, check_drafting, observe
from benchmarks.pinned import ANY, Cores

FAR_MS = 200.0
VERIFIER = ["--model", "emulated", "--engine", "emulated", "--emulated-step-ms", "5"]
EDGE = ["--model", "emulated", "--drafter", "emulated", "--adaptive", "false", "--depth", "3"]


async def test_a_column_over_a_long_link_says_the_same_and_takes_a_round_trip_more_each_round(
    tmp_path: Path,
) -> None:
    seen = []
    async with (
        cloud(tmp_path, Cores(ANY, ANY), VERIFIER) as where,
        where.edges("edge", 1, EDGE) as edges,
    ):
        await check_drafting(EDGE_DRAFTS, edges)
        for ms in (0.0, 0.0, 0.0, FAR_MS):
            column = Column(Kind.SPECEDGE, 1, ms, setting=Setting(3, 32))
            seen.append(await measure(where, edges, column))
    *nears, far = seen
    near = min(nears, key=lambda one: one.wall_s)  # a busy machine is late, hardly each time

    assert same_texts(near.timed, far.timed) == 1
    figures = figures_of(far, Prefill(0, 0.0))
    assert figures.tokens == 24
    assert figures.nodes > 1
    assert figures.reply_p50_ms is not None
    longer_s = far.wall_s - near.wall_s
    # Opening the session is a round trip too; slack is for what the machine did meanwhile.
    assert longer_s > 0.7 * figures.rounds * FAR_MS / 1000
    assert near.wall_s < figures.rounds * FAR_MS / 1000


async def measure(where: Cloud, edges: Sequence[str], column: Column) -> Observed:
    """Again, where the machine was so busy that no place was found in time."""
    while True:
        try:
            return await observe(where, edges, [request(24)], warm_up=request(4), column=column)
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 503


def request(max_tokens: int) -> dict[str, object]:
    return {
        "model": "emulated",
        "messages": [{"role": "user", "content": "how far is it?"}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
