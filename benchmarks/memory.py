"""What each process holds resident after real work: the real model, prompt lookup, some prompts.

The target's weights are held whole, in fp32, so that it is known how many of the verifier's bytes
they are; by default a CPU holds them in blocks, which are smaller.

Figures, in MiB: ``scheduler_rss_mib``, ``edge_rss_mib``, ``verifier_rss_mib`` (VmRSS: the model's
file, which is read in place and given up when others need the memory, counts too),
``verifier_weights_mib`` (from that file, in fp32), ``verifier_beyond_weights_mib`` (what is left of
its own memory, RssAnon, KV included), and ``scheduler_torch_mapped`` (1 if a library of torch is
mapped into the scheduler).
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Final

from benchmarks import asking, stack
from specedge.engine.loading import resolve_model
from specedge.lossless.prompts import choose_prompts

MIB: Final = 1024 * 1024
DTYPE_BYTES: Final = 4
WHOLE_WEIGHTS: Final = {"SPECEDGE_WEIGHTS": "whole"}
CACHE: Final = Path("~/.cache/specedge")
NUM_PROMPTS: Final = 6
TOKENS: Final = 48


def run() -> dict[str, float]:
    """One system, a few prompts, then a look at each process."""
    prompts_file = os.environ.get("PROMPTS")
    prompts = choose_prompts(NUM_PROMPTS, Path(prompts_file) if prompts_file else None)
    with (
        stack.running(
            ["--dtype", "fp32", "--drafter", "prompt-lookup"], settings=WHOLE_WEIGHTS
        ) as system,
        asking.new_client() as client,
    ):
        for prompt in prompts:
            request = {"model": system.model, "prompt": prompt, "max_tokens": TOKENS}
            asking.stream(client, system.base_url, request)
        verifier, weights = system.pid("verifier-1"), _weights_mib(system.model)
        return {
            "scheduler_rss_mib": _rss_mib(system.pid("scheduler")),
            "scheduler_torch_mapped": float(_maps_torch(system.pid("scheduler"))),
            "edge_rss_mib": _rss_mib(system.pid("edge")),
            "verifier_rss_mib": _rss_mib(verifier),
            "verifier_weights_mib": weights,
            "verifier_beyond_weights_mib": _rss_mib(verifier, "RssAnon") - weights,
        }


def _rss_mib(pid: int, kind: str = "VmRSS") -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, f"process {pid} has no {kind}"
    return int(found[1]) / 1024


def _maps_torch(pid: int) -> bool:
    return "/torch/" in Path(f"/proc/{pid}/maps").read_text()


def _weights_mib(model: str) -> float:
    """Size of the model's weights in the dtype they are run in; tied weights are stored once."""
    folder = resolve_model(model, CACHE)
    assert isinstance(folder, Path), "the built-in model is a folder"
    elements = sum(_elements(file) for file in folder.glob("*.safetensors"))
    return elements * DTYPE_BYTES / MIB


def _elements(file: Path) -> int:
    """From the header: its length in eight bytes, then JSON with a shape for each tensor."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name[:2] != "__")
