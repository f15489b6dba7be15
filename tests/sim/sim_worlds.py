"""Scenarios around the paper's pair of devices, for tests and for the policies' grid."""

from collections.abc import Mapping

from specedge.pairs import QWEN3_14B_PAPER
from specedge_scheduler.sim.measures import Figures
from specedge_scheduler.sim.scenario import read_scenario
from specedge_scheduler.sim.world import simulate

FREE = {"min": 3, "max": 10}


def edges(count: int, **fields: object) -> dict[str, object]:
    """Homes with the paper's drafter, drafting ahead."""
    return {
        "count": count,
        "draft_pass_ms": QWEN3_14B_PAPER.edge_drafter.draft_pass_ms,
        "depth": FREE,
        "nodes": 32,
        "acceptance": [QWEN3_14B_PAPER.acceptance],
        "proactive": {"hit": 0.45},
        "link": {"round_trip_ms": 14.07, "jitter_ms": 0.5},
        "session": {"prompt_tokens": 64, "output_tokens": 400},
    } | fields


def run(
    *groups: Mapping[str, object],
    policy: str = "jit",
    batch: int = 4,
    seconds: float = 10.0,
    warmup_s: float = 3.0,
    verifiers: int = 1,
    slots: int = 64,
    objective_ms: float = 0.0,
    failures: tuple[Mapping[str, object], ...] = (),
    seed: int = 1,
) -> Figures:
    """What comes of these edges on the paper's A100."""
    device = {"device": QWEN3_14B_PAPER.target.name, "count": verifiers, "slots": slots}
    scheduler = {"policy": policy, "batch_sessions": batch, "objective_ms": objective_ms}
    fields = {
        "duration_s": warmup_s + seconds,
        "warmup_s": warmup_s,
        "seed": seed,
        "scheduler": scheduler,
        "verifiers": [device],
        "edges": list(groups),
        "failures": list(failures),
    }
    return simulate(read_scenario(fields))
