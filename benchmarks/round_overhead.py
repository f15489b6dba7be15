"""What the system adds to a round besides compute: real processes, real broker, an emulated target.

Broker, scheduler, verifier and edge run on loopback; the target sleeps 20 ms a step; drafts of the
emulated drafter have up to 32 nodes. A streamed completion hands out one piece of text a round, so
the gap between two pieces is a whole round as the client sees it. From it are taken the compute in
it, as measured in the same run: the mean step (20 ms, the emulation's own work, and by how much the
machine oversleeps) and the mean draft. ``round_overhead_p50_ms`` and ``round_overhead_p99_ms`` are
medians over five runs; ``round_overhead_rounds`` says how many rounds a run had, and
``round_overhead_load_1min`` how busy the machine was.
"""

import os
import statistics
import sys
from typing import Final

import numpy as np

from benchmarks import asking, stack

STEP_MS: Final = 20.0
RUNS: Final = 5
TOKENS: Final = 1000
WARM_UP_TOKENS: Final = 40
MERGED_SHARE: Final = 0.02
SERVICE_SETTINGS: Final = {
    "SPECEDGE_ENGINE": "emulated",
    "SPECEDGE_EMULATED_STEP_MS": str(STEP_MS),
}


def run() -> dict[str, float]:
    """One system, five runs of one request each."""
    load = os.getloadavg()[0]
    print(f"load average before: {load:.2f}", file=sys.stderr)
    flags = ["--model", "emulated", "--drafter", "emulated"]
    with stack.running(flags, settings=SERVICE_SETTINGS) as system:
        _run_once(system, WARM_UP_TOKENS)
        runs = [_run_once(system, TOKENS) for _ in range(RUNS)]
    return {
        "round_overhead_p50_ms": statistics.median(float(np.percentile(r, 50)) for r in runs),
        "round_overhead_p99_ms": statistics.median(float(np.percentile(r, 99)) for r in runs),
        "round_overhead_rounds": statistics.median(len(r) for r in runs),
        "round_overhead_load_1min": load,
    }


def _run_once(system: stack.Stack, tokens: int) -> list[float]:
    """Milliseconds added to each round after the first."""
    request = {
        "model": system.model,
        "prompt": "measure the round",
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    with asking.new_client() as client:
        timed = asking.stream(client, system.base_url, request)
    rounds = timed.metrics["specedge"]["rounds"]
    # Two verdicts may reach a late reader as one piece; that gap then counts as one long round,
    # which can only make the figures worse.
    if not rounds * (1 - MERGED_SHARE) <= len(timed.arrived_s) <= rounds:
        raise RuntimeError(f"{len(timed.arrived_s)} pieces in {rounds} rounds: cannot tell rounds")
    compute_ms = sum(timed.metrics["specedge"][key] for key in ("draft_ms", "verify_ms")) / rounds
    return [gap_ms - compute_ms for gap_ms in timed.gaps_ms]
