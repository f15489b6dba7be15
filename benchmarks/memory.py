"""What each process holds resident after real work: the real model, prompt lookup, some prompts.

Figures, in MiB: ``scheduler_rss_mib``, ``edge_rss_mib``, ``verifier_rss_mib`` (VmRSS),
``verifier_weights_mib`` and ``verifier_kv_mib`` (what the verifier itself reports),
``verifier_beyond_model_mib`` (the rest), and ``scheduler_torch_mapped`` (1 if a library of torch is
mapped into the scheduler, else 0). Linux only. ``PROMPTS`` names a file of prompts, one JSON string
a line.
"""

import os
import re
from pathlib import Path
from typing import Final

import httpx

from benchmarks import asking, stack
from specedge.lossless.prompts import choose_prompts

MIB: Final = 1024 * 1024
NUM_PROMPTS: Final = 6
TOKENS: Final = 48


def run() -> dict[str, float]:
    """One system, a few prompts, then a look at each process."""
    prompts_file = os.environ.get("PROMPTS")
    prompts = choose_prompts(NUM_PROMPTS, Path(prompts_file) if prompts_file else None)
    with stack.running(["--dtype", "bf16"]) as system:
        for prompt in prompts:
            request = {"model": system.model, "prompt": prompt, "max_tokens": TOKENS}
            asking.stream(system.base_url, request)
        verifier = _rss_mib(system.pid("verifier-1"))
        weights, kv = _held_by_model(system.processes["verifier-1"]["url"])
        return {
            "scheduler_rss_mib": _rss_mib(system.pid("scheduler")),
            "scheduler_torch_mapped": float(_maps_torch(system.pid("scheduler"))),
            "edge_rss_mib": _rss_mib(system.pid("edge")),
            "verifier_rss_mib": verifier,
            "verifier_weights_mib": weights,
            "verifier_kv_mib": kv,
            "verifier_beyond_model_mib": verifier - weights - kv,
        }


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, f"process {pid} has no VmRSS"
    return int(found[1]) / 1024


def _maps_torch(pid: int) -> bool:
    return "/torch/" in Path(f"/proc/{pid}/maps").read_text()


def _held_by_model(verifier_url: str) -> tuple[float, float]:
    """Weights and KV in MiB, from the verifier's metrics."""
    metrics = httpx.get(f"{verifier_url}/metrics", trust_env=False).text
    return (
        _metric(metrics, "specedge_model_weights_bytes") / MIB,
        _metric(metrics, "specedge_kv_cache_bytes") / MIB,
    )


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the verifier reports no {name}")
    return float(found[1])
