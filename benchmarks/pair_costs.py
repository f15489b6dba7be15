"""``python -m benchmarks costs``: what the real pair's steps and passes take here, by their rows.

The target's step over one session with a tree of so many nodes, in fp32, and the drafter's pass
over so many nodes behind the root's, each on one thread, at a context of 256 tokens. Medians, timed
in turn in one run, so that a busy moment hits all alike, and a step's weights are never those that
were computed with last. What ``controller`` takes its first device to cost comes from here.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.acceptance import CACHE_DIR
from benchmarks.drafters import named_drafter
from benchmarks.figures import machine, say
from specedge.engine.loading import DEFAULT_MODEL
from specedge.engine.ports import Choosing, Drafter, StepItem
from specedge.engine.shipped import AUTO, chosen_drafter
from specedge.engine.torch_host import prepare_host
from specedge.engine.torch_model import load_target_model
from specedge.engine.torch_target import TorchTarget
from specedge.ids import Slot
from specedge.params import SamplingParams
from specedge.tree.token_tree import IntArray, TokenTree

CONTEXT_TOKENS: Final = 256
KV_BYTES: Final = 256 << 20
STEP_ROWS: Final = (1, 2, 4, 6, 8, 9, 12, 16, 24)
PASS_NODES: Final = (1, 2, 4, 8)
ROOT_TOKEN: Final = 1000


def main(argv: Sequence[str]) -> None:
    """Measure; figures as JSON on stdout."""
    options = _parser().parse_args(argv)
    prepare_host("cpu", threads=1)
    name = chosen_drafter(options.drafter, options.model)
    say(f"loading {options.model} and {name}")
    loaded = load_target_model(options.model, cache_dir=CACHE_DIR, dtype="fp32")
    target = TorchTarget(loaded, num_slots=2, kv_bytes=KV_BYTES)
    drafter = named_drafter(name, model=options.model, cache_dir=CACHE_DIR, branch=8, threads=1)
    costs = measured(target, drafter, options.repeats)
    print(json.dumps(costs | machine(), indent=1))


def measured(target: TorchTarget, drafter: Drafter, repeats: int) -> dict[str, float]:
    """Milliseconds: ``step_ms_<rows>`` and ``pass_ms_<nodes>``."""
    rng = np.random.default_rng(0)
    context = rng.integers(100, target.identity.vocab_size - 100, CONTEXT_TOKENS).astype(np.int32)
    committed = np.append(context, np.int32(ROOT_TOKEN))
    slot = target.lease(CONTEXT_TOKENS + max(STEP_ROWS))
    target.step([StepItem(slot, 0, context)])
    taken: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):  # the first time warms up
        for number, num_rows in enumerate(STEP_ROWS):
            num_nodes = PASS_NODES[number % len(PASS_NODES)]
            for key, ms in (
                (f"step_ms_{num_rows}", _step_ms(target, slot, committed, num_rows)),
                (f"pass_ms_{num_nodes}", _pass_ms(drafter, committed, num_nodes)),
            ):
                if repeat > 0:
                    taken.setdefault(key, []).append(ms)
    return {key: round(statistics.median(each), 2) for key, each in taken.items()}


def _step_ms(target: TorchTarget, slot: Slot, committed: IntArray, num_rows: int) -> float:
    choosing = Choosing(SamplingParams(), committed, len(committed))
    item = StepItem(slot, CONTEXT_TOKENS, committed[-1:], _tree(num_rows), choosing)
    began_s = time.perf_counter()
    target.step([item])
    return 1e3 * (time.perf_counter() - began_s)


def _pass_ms(drafter: Drafter, committed: IntArray, num_nodes: int) -> float:
    """Of a pass over so many children of the root, in a session of its own."""
    session = drafter.open(committed, SamplingParams())
    try:
        tree = _tree(1 + num_nodes)
        session.expand(tree, np.zeros(1, dtype=np.int32))
        began_s = time.perf_counter()
        session.expand(tree, np.arange(1, 1 + num_nodes, dtype=np.int32))
        return 1e3 * (time.perf_counter() - began_s)
    finally:
        session.close()


def _tree(num_rows: int) -> TokenTree:
    """A root and its children."""
    tokens = ROOT_TOKEN + np.arange(num_rows)
    return TokenTree.from_parents(tokens, [-1] + [0] * (num_rows - 1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks costs", description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="the target, by name or folder")
    parser.add_argument("--drafter", default=AUTO, help="by name or folder")
    parser.add_argument("--repeats", type=int, default=35, help="of each figure")
    return parser
