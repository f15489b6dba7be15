"""What tree verification costs beside a plain forward, and what batching sessions gains.

Ratios of medians, timed in turn in one run on one thread, with random weights in the shape of the
built-in model (speed does not depend on their values). For each dtype, at a context of 256 tokens
per session, and r rows per session being the root and its drafted nodes:

``engine_step_1x16_<dtype>``    one session × 16 nodes, over a plain forward of as many tokens
``engine_step_8x8_<dtype>``     eight sessions × 8 nodes in one step, over the same
``engine_batching_8x8_<dtype>`` tokens per second of that step, over eight steps one by one
``engine_plain_17_ms_<dtype>``, ``engine_plain_72_ms_<dtype>``  the plain forwards, milliseconds

The plain forward is ``model(input_ids)`` without cache or context, so a ratio of 1 is out of reach:
the step also attends to the context. Both sides run the same linear layers: those that a verifier
has, on a CPU ``specedge.engine.packed_linear``'s in fp32, and in bf16, where there is no such
arithmetic, ``specedge.engine.wide_linear``'s.
``engine_torch_72_ms_<dtype>`` is the plain forward with torch's own, for comparison.
"""

import statistics
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specedge.engine.packed_linear import quicken
from specedge.engine.ports import Choosing, ModelIdentity, StepItem
from specedge.engine.torch_model import LoadedModel
from specedge.engine.torch_target import TorchTarget
from specedge.engine.wide_linear import widen_if_slow
from specedge.ids import Slot
from specedge.params import SamplingParams
from specedge.tree.token_tree import TokenTree

CONTEXT_TOKENS: Final = 256
KV_BYTES: Final = 256 << 20
REPEATS: Final = {"bf16": 5, "fp32": 11}
DTYPES: Final = {"bf16": torch.bfloat16, "fp32": torch.float32}


def run() -> dict[str, float]:
    """All figures; takes a minute or two on an old CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {key: value for dtype in DTYPES for key, value in _measure(dtype).items()}
    finally:
        torch.set_num_threads(threads)


def _measure(dtype: str) -> dict[str, float]:
    untouched = _model(DTYPES[dtype])
    model = _model(DTYPES[dtype])
    widen_if_slow(model)
    quicken(model)  # as ``TorchTarget`` does to ``served``
    served = _model(DTYPES[dtype])
    widen_if_slow(served)
    engine = _engine(served)
    context = np.random.default_rng(0).integers(100, 49000, size=CONTEXT_TOKENS).astype(np.int32)
    prefilled = engine.lease(CONTEXT_TOKENS)
    engine.step([StepItem(prefilled, 0, context)])
    one, eight = _Crowd(engine, prefilled, 1, 16), _Crowd(engine, prefilled, 8, 8)
    seconds = _interleaved(
        {
            "plain_17": lambda: _plain(model, 17),
            "one": one.step_together,
            "plain_72": lambda: _plain(model, 72),
            "together": eight.step_together,
            "one_by_one": eight.step_one_by_one,
            "torch_72": lambda: _plain(untouched, 72),
        },
        REPEATS[dtype],
    )
    return {
        f"engine_step_1x16_{dtype}": seconds["one"] / seconds["plain_17"],
        f"engine_step_8x8_{dtype}": seconds["together"] / seconds["plain_72"],
        f"engine_batching_8x8_{dtype}": seconds["one_by_one"] / seconds["together"],
        f"engine_plain_17_ms_{dtype}": 1e3 * seconds["plain_17"],
        f"engine_plain_72_ms_{dtype}": 1e3 * seconds["plain_72"],
        f"engine_torch_72_ms_{dtype}": 1e3 * seconds["torch_72"],
    }


class _Crowd:
    """Sessions with a context each, and the step that verifies a tree of each of them."""

    def __init__(
        self, engine: TorchTarget, prefilled: Slot, num_sessions: int, num_nodes: int
    ) -> None:
        rng = np.random.default_rng(1)
        self._engine = engine
        self._items: list[StepItem] = []
        for _ in range(num_sessions):
            slot = engine.lease(CONTEXT_TOKENS + 1 + num_nodes)
            engine.copy_rows(prefilled, slot, CONTEXT_TOKENS)
            parents = [-1, *(int(rng.integers(0, node)) for node in range(1, num_nodes + 1))]
            tree = TokenTree.from_parents(rng.integers(100, 49000, num_nodes + 1), parents)
            # Only penalties would read the committed tokens.
            committed = np.full(CONTEXT_TOKENS + 1, tree.token[0], dtype=np.int32)
            choosing = Choosing(SamplingParams(), committed, len(committed))
            self._items.append(StepItem(slot, CONTEXT_TOKENS, committed[-1:], tree, choosing))

    def step_together(self) -> None:
        self._engine.step(self._items)

    def step_one_by_one(self) -> None:
        for item in self._items:
            self._engine.step([item])


def _interleaved(timed: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, run in turn so that a busy moment hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, call in timed.items():
            begin = time.perf_counter()
            call()
            if repeat > 0:  # the first round warms up
                taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _plain(model: LlamaForCausalLM, num_tokens: int) -> None:
    with torch.inference_mode():
        model(input_ids=torch.arange(num_tokens)[None] + 100, use_cache=False)


def _model(dtype: torch.dtype) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval()


def _engine(model: LlamaForCausalLM) -> TorchTarget:
    config = model.config
    identity = ModelIdentity(
        name="random",
        revision="none",
        weights_fingerprint="",
        tokenizer_fingerprint="",
        vocab_size=config.vocab_size,
        stop_ids=(),
        max_context_tokens=config.max_position_embeddings,
    )
    return TorchTarget(LoadedModel(model, None, identity), num_slots=16, kv_bytes=KV_BYTES)


if __name__ == "__main__":
    for key, value in run().items():
        print(f"{key:34} {value:.3f}")
