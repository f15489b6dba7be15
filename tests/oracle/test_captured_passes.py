"""A pass that was captured over some sessions says, over any others, what the model's modules say.

Captured is here what the operations did, one by one, over the tensors that they were done on: what
a CUDA graph keeps, on any device.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from specedge.engine.captured_passes import Capture, CapturedPasses, CudaCapture, Replay
from specedge.engine.fixed_step import LEAST_KEYS, MOST_KEYS, MOST_ROWS, FixedStep, PassShape
from specedge.engine.step_table import Span, StepTable, chain_span, tree_span
from specedge.engine.tree_model import TreeModel
from specedge.tree.token_tree import TokenTree
from tests.oracle.random_trees import random_tree
from tests.oracle.tiny_models import FAMILIES, KV_BYTES, build, random_tokens

# Its experts are asked which rows they have: no capture, but a pass by the modules.
ASKS_ITS_DEVICE = "gpt_oss"
CAPTURED = [family for family in FAMILIES if family != ASKS_ITS_DEVICE]


def traced(compute: Callable[[], None]) -> Replay:
    """What ``compute`` does to tensors, recorded."""
    compute()  # as before any capture: what is made but once is made now

    def one_operation_after_the_other(unused: Tensor) -> Tensor:
        compute()
        return unused

    graph = make_fx(one_operation_after_the_other)(torch.zeros(()))

    def replay() -> None:
        graph(torch.zeros(()))

    return replay


def passes_of(tree_model: TreeModel, capture: Capture) -> CapturedPasses:
    return CapturedPasses(
        tree_model._forward,
        capture,
        spare_row=tree_model.cache.spare_row,
        dtype=tree_model.dtype,
        device=tree_model.device,
    )


def taken_over(family: str) -> TreeModel:
    """A model whose memory of keys and values is garbage wherever nothing was written."""
    tree_model = TreeModel(build(family), num_slots=16, kv_bytes=KV_BYTES)
    for layer in range(tree_model.model.config.num_hidden_layers):
        for plane in tree_model.cache.planes(layer):
            plane.fill_(torch.nan)
    return tree_model


class World:
    """Sessions with some committed tokens, all but the last computed, and drafts for them."""

    def __init__(self, tree_model: TreeModel, seed: int) -> None:
        self.tree_model = tree_model
        self.rng = np.random.default_rng(seed)
        self.shape = PassShape(0, 0)  # for tests that look at the pass under way

    def spans(self, *sizes: tuple[int, int]) -> list[Span]:
        """For each (committed tokens, drafted nodes) one of a session of its own."""
        return [self._span(*size) for size in sizes]

    def _span(self, num_committed: int, num_drafted: int) -> Span:
        cache, committed = self.tree_model.cache, random_tokens(self.rng, num_committed)
        slot = cache.lease(num_committed + num_drafted)
        offset = cache.offset(slot)
        done = num_committed - int(self.rng.integers(1, 4))
        prefix = chain_span(committed[:done], start=0, offset=offset, num_logits=0)
        self.tree_model._forward(self._table([prefix]))
        tree: TokenTree = random_tree(self.rng, int(committed[-1]), num_drafted)
        return tree_span(committed[done:], tree, start=done, offset=offset)

    def _table(self, spans: list[Span]) -> StepTable:
        model = self.tree_model
        return StepTable.build(spans, dtype=model.dtype, device=model.device)

    def by_modules(self, spans: list[Span]) -> Tensor:
        return self.tree_model._forward(self._table(spans))

    def written(self, spans: list[Span]) -> Tensor:
        """K of the last layer at the spans' rows."""
        keys, _ = self.tree_model.cache.planes(self.tree_model.model.config.num_hidden_layers - 1)
        return keys[:, self._table(spans).arena_rows].clone()


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


# All of them in passes of up to 16 rows and 256 keys.
FIRST = ((20, 9),)
OTHERS = [((40, 11),), ((5, 12),), ((9, 3), (33, 4)), ((14, 2), (60, 1), (7, 3)), ((31, 10),)]


@pytest.mark.parametrize("family", CAPTURED)
def test_a_captured_pass_says_of_any_sessions_what_the_modules_say(family: str) -> None:
    world = World(taken_over(family), seed=3)
    passes = passes_of(world.tree_model, traced)
    assert passes.try_forward(world.spans(*FIRST)) is not None

    for sizes in OTHERS:
        spans = world.spans(*sizes)
        wanted, keys = world.by_modules(spans), world.written(spans)
        ours = passes.try_forward(spans)

        assert ours is not None
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(world.written(spans), keys, atol=1e-4, rtol=1e-4)
    assert passes.shapes == {PassShape(16, LEAST_KEYS)}


def test_what_a_pass_said_stays_when_the_next_one_is_replayed() -> None:
    world = World(taken_over("llama"), seed=4)
    passes = passes_of(world.tree_model, traced)
    spans = world.spans((20, 9))
    first = passes.try_forward(spans)
    assert first is not None
    kept = first.clone()
    passes.try_forward(world.spans((31, 10)))

    assert torch.equal(first, kept)


def test_another_size_is_captured_beside_the_first() -> None:
    world = World(taken_over("llama"), seed=5)
    passes = passes_of(world.tree_model, traced)
    for sizes in [((20, 13),), ((200, 9), (90, 5)), ((31, 12),)]:
        spans = world.spans(*sizes)
        wanted = world.by_modules(spans)
        ours = passes.try_forward(spans)

        assert ours is not None
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    assert len(passes.shapes) == 2


def test_rows_that_ask_for_no_logits_get_none() -> None:
    world = World(taken_over("llama"), seed=6)
    passes = passes_of(world.tree_model, traced)
    slot = world.tree_model.cache.lease(8)
    offset = world.tree_model.cache.offset(slot)
    chain = chain_span(random_tokens(world.rng, 6), start=0, offset=offset, num_logits=0)
    logits = passes.try_forward([chain])

    assert logits is not None
    assert len(logits) == 0


@pytest.mark.parametrize(
    ("rows", "keys", "shape"),
    [
        (1, 1, PassShape(1, LEAST_KEYS)),
        (3, 256, PassShape(4, 256)),
        (5, 257, PassShape(8, 512)),
        (MOST_ROWS, MOST_KEYS, PassShape(MOST_ROWS, MOST_KEYS)),
        (MOST_ROWS + 1, 300, None),
        (1, MOST_KEYS + 1, None),
    ],
)
def test_a_shape_has_room_for_its_spans_and_large_passes_have_none(
    rows: int, keys: int, shape: PassShape | None
) -> None:
    tokens = np.ones(rows, dtype=np.int32)
    span = chain_span(tokens, start=max(keys, rows) - rows, offset=0, num_logits=1)

    assert PassShape.holding([span]) == shape


def test_a_model_that_cannot_be_captured_goes_without() -> None:
    attempts = 0

    def refused(compute: Callable[[], None]) -> Replay:
        nonlocal attempts
        attempts += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    world = World(taken_over("llama"), seed=7)
    passes = passes_of(world.tree_model, refused)

    assert [passes.try_forward(world.spans((20, 9))) for _ in range(3)] == [None] * 3
    assert attempts == 1


def test_a_replay_that_does_nothing_is_never_used() -> None:
    def forgotten(compute: Callable[[], None]) -> Replay:
        compute()
        return lambda: None

    world = World(taken_over("llama"), seed=8)
    passes = passes_of(world.tree_model, forgotten)

    assert [passes.try_forward(world.spans((20, 9))) for _ in range(2)] == [None, None]
    assert not passes.shapes


def test_what_was_known_of_the_captured_tokens_only_is_found_out() -> None:
    said: list[Tensor] = []

    def by_heart(compute: Callable[[], None]) -> Replay:
        compute()
        assert passes._logits is not None
        said.append(passes._logits.clone())
        return lambda: passes._logits.copy_(said[0])  # type: ignore[union-attr, return-value]

    world = World(taken_over("llama"), seed=8)
    passes = passes_of(world.tree_model, by_heart)

    assert passes.try_forward(world.spans((20, 9))) is None
    assert said


def test_a_size_that_there_is_no_memory_for_is_left_to_the_modules() -> None:
    def in_little_memory(compute: Callable[[], None]) -> Replay:
        if world.shape.rows > 16:
            raise torch.OutOfMemoryError("out of memory")
        return traced(compute)

    world = World(taken_over("llama"), seed=11)
    passes = passes_of(world.tree_model, in_little_memory)
    for num_drafted, fits in [(9, True), (29, False), (29, False), (9, True)]:
        spans = world.spans((20, num_drafted))
        found = PassShape.holding(spans)
        assert found is not None
        world.shape = found

        assert (passes.try_forward(spans) is not None) == fits
    assert passes.shapes == {PassShape(16, LEAST_KEYS)}


def test_a_model_replays_its_captured_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(taken_over("qwen3"), seed=9)
    model = world.tree_model
    model._captured = passes_of(model, traced)
    spans = world.spans((20, 9))
    wanted = model.forward(spans)

    def unexpected(step: StepTable | FixedStep) -> Tensor:
        raise AssertionError("computed by the modules")

    monkeypatch.setattr(model, "_forward", unexpected)
    torch.testing.assert_close(model.forward(spans), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_short_passes_are_graphs(family: str) -> None:
    with torch.inference_mode():
        world = World(TreeModel(build(family).to("cuda"), num_slots=16, kv_bytes=KV_BYTES), seed=10)
        world.tree_model.capture()
        passes = world.tree_model._captured
        assert passes is not None
        assert isinstance(passes._capture, CudaCapture)
        if family != ASKS_ITS_DEVICE:
            assert passes.shapes
        for sizes in OTHERS:
            spans = world.spans(*sizes)
            wanted = world.by_modules(spans)
            ours = world.tree_model.forward(spans)

            torch.testing.assert_close(ours, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_goes_on_after_a_capture_that_failed() -> None:
    capture = CudaCapture(torch.device("cuda"))
    there = torch.ones(3, device="cuda")
    before = torch.cuda.current_stream()

    def asks() -> None:
        there.mul_(float(there.sum()))

    def asks_nothing() -> None:
        there.add_(1.0)

    with pytest.raises(RuntimeError):
        capture(asks)

    assert torch.cuda.current_stream() == before
    replay = capture(asks_nothing)
    there.fill_(1.0)
    replay()
    assert there.tolist() == [2.0] * 3
