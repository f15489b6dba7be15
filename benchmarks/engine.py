"""``make bench-engine``: the engine's step, the size of a round, what the system adds to a round
besides compute, and memory.

Each part is a module with ``run() -> dict[str, float]`` under flat keys; ``GOALS`` documents them.
A part that breaks is reported and makes the exit code 1; figures, whatever they are, do not.
"""

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from benchmarks import figures
from benchmarks.figures import Goal
from specedge.cli.console import quiet_logs

TARGET: Final = "bench-engine"
PARTS: Final = (
    "benchmarks.engine_step",
    "benchmarks.round_bytes",
    "benchmarks.round_overhead",
    "benchmarks.memory",
)

GOALS: Final[dict[str, Goal]] = {
    "engine_step_1x16_bf16": Goal("step of 1 × 16 nodes over a plain forward, bf16", at_most=1.25),
    "engine_step_8x8_bf16": Goal("step of 8 × 8 nodes over a plain forward, bf16", at_most=1.35),
    "engine_batching_8x8_bf16": Goal("8 × 8 in one step over one by one, bf16", at_least=2.3),
    "engine_step_1x16_fp32": Goal("step of 1 × 16 nodes over a plain forward, fp32"),
    "engine_step_8x8_fp32": Goal("step of 8 × 8 nodes over a plain forward, fp32"),
    "engine_batching_8x8_fp32": Goal("8 × 8 in one step over one by one, fp32"),
    "round_up_payload_bytes": Goal("NATS payload of a 32-node draft, bytes", at_most=512),
    "round_down_payload_bytes": Goal("NATS payload of its verdict, bytes", at_most=256),
    "round_up_socket_bytes": Goal("the draft on the edge's socket, bytes"),
    "round_down_socket_bytes": Goal("the verdict on the edge's socket, bytes"),
    "round_overhead_p50_ms": Goal("added to a round besides compute, p50, ms", at_most=3),
    "round_overhead_p99_ms": Goal("added to a round besides compute, p99, ms", at_most=10),
    "round_overhead_rounds": Goal("rounds in each of its five runs"),
    "round_overhead_load_1min": Goal("load average before it"),
    "scheduler_rss_mib": Goal("scheduler, resident, MiB", at_most=120),
    "scheduler_torch_mapped": Goal("1 if torch is in the scheduler's memory map", at_most=0),
    "edge_rss_mib": Goal("edge with prompt lookup, resident, MiB", at_most=400),
    "verifier_rss_mib": Goal("verifier, weights whole, resident, MiB"),
    "verifier_beyond_weights_mib": Goal("verifier beyond weights, KV included, MiB", at_most=700),
}


def main(argv: Sequence[str]) -> None:
    """Run all parts, write the figures, print the table last. Takes no arguments."""
    if argv:
        sys.exit("usage: python -m benchmarks engine")
    quiet_logs()
    measured: dict[str, float] = {}
    errors: list[str] = []
    for part in PARTS:
        print(f"{part} …", file=sys.stderr, flush=True)
        try:
            measured |= importlib.import_module(part).run()
        except Exception as error:  # one broken part must not hide the others
            traceback.print_exc()
            errors.append(f"{part}: {type(error).__name__}: {error}")
    path = figures.write(TARGET, measured, errors)
    print(f"written to {path}", file=sys.stderr, flush=True)
    for missing in errors:
        print(f"not measured: {missing}", file=sys.stderr, flush=True)
    figures.show(TARGET, measured, GOALS)
    sys.exit(1 if errors else 0)
