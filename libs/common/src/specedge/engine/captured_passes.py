"""Short passes of a model captured once and replayed: on a GPU one launch instead of a thousand.

Owns which shapes were captured, and when to go without. What is captured is any model's own
forward pass, over tensors that stay where they are (``fixed_step``); nothing is known of its
layers. Whatever cannot be captured, or gives something else than the model's modules, is computed
by them, as before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Final

import numpy as np
import structlog
import torch
from torch import Tensor

from specedge.engine.fixed_step import MOST_ROWS, FixedStep, PassShape
from specedge.engine.step_table import Span, StepTable

# Runs what it was given once more, over the same tensors as when it was captured.
Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]

# How nearly a captured pass has to agree with the modules', of the largest logit.
_TOLERANCE: Final = {torch.float32: 1e-3}
_COARSE_TOLERANCE: Final = 5e-2

_log = structlog.get_logger("specedge.engine")


# Two captures at a time would find each other's kernels.
_capturing: Final = Lock()


class CudaCapture:
    """Captures into CUDA graphs of one memory pool. They are replayed one after the other, and what
    is wanted of one is copied out before the next: so they may share what they compute in."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Torch captures into no pool whose graphs are all gone: one of them stays, used or not.
        self._holds_pool: torch.cuda.CUDAGraph | None = None
        # One for all: libraries keep a workspace for each stream that they ever saw.
        self._stream = torch.cuda.Stream(device)

    def __call__(self, compute: Callable[[], None]) -> Replay:
        """Raises RuntimeError for what cannot be captured, such as a pass that asks the device
        something on its way. What it computed by then is over for whatever is launched next."""
        with _capturing, torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):
                    graph = self._captured(compute)
            finally:  # also what was computed in vain has written K and V
                torch.cuda.current_stream().wait_stream(self._stream)
        return graph.replay

    def _captured(self, compute: Callable[[], None]) -> torch.cuda.CUDAGraph:
        compute()  # libraries make their workspaces, which capturing forbids
        with _asking_nothing():
            compute()
        torch.cuda.empty_cache()  # while a capture is under way, torch gives nothing back for it
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            compute()
        finally:
            graph.capture_end()
            self._holds_pool = self._holds_pool or graph
        return graph


@contextmanager
def _asking_nothing() -> Iterator[None]:
    """Whatever waits for the device raises: known before a capture is begun that has to fail."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class CapturedPasses:
    """The captured passes of one model. One owner thread; call in inference mode.

    compute     the model's forward pass: logits (rows, V) of a step, K and V written
    spare_row   arena row that belongs to no slot
    """

    def __init__(
        self,
        compute: Callable[[StepTable | FixedStep], Tensor],
        capture: Capture,
        *,
        spare_row: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._compute = compute
        self._capture = capture
        self._spare_row = spare_row
        self._dtype = dtype
        self._device = device
        self._tolerance = _TOLERANCE.get(dtype, _COARSE_TOLERANCE)
        self._captured: dict[PassShape, tuple[FixedStep, Replay]] = {}
        self._refused: set[PassShape] = set()
        self._logits: Tensor | None = None  # (MOST_ROWS, V), of the pass replayed last
        self._is_off = False

    @property
    def shapes(self) -> frozenset[PassShape]:
        """Those captured so far."""
        return frozenset(self._captured)

    def try_forward(self, spans: Sequence[Span]) -> Tensor | None:
        """Logits (L, V) of the rows that asked, as ``TreeModel.forward``; None where the pass has
        to be computed by the modules. The first pass of a shape takes several times as long."""
        shape = None if self._is_off else PassShape.holding(spans)
        if shape is None or shape in self._refused:
            return None
        if shape not in self._captured and not self._try_capture(shape, spans):
            return None
        step, replay = self._captured[shape]
        step.hold(spans)
        replay()
        assert self._logits is not None  # made before the first capture
        return self._logits[step.wanted_rows]

    def _try_capture(self, shape: PassShape, spans: Sequence[Span]) -> bool:
        """Capture a pass of ``shape`` and hold it against the modules' own over ``spans``."""
        try:
            step, replay = self._captured_over(shape, spans)
            is_right = self._is_right(step, replay, spans)
        except torch.OutOfMemoryError as error:
            return self._refuse(shape, f"there is no memory for it: {error}")
        except RuntimeError as error:
            if isinstance(
                error.__context__, torch.OutOfMemoryError
            ):  # the capture's end came over it
                return self._refuse(shape, f"there is no memory for it: {error.__context__}")
            # What ails one pass of a model ails them all.
            self._is_off = True
            return self._refuse(shape, f"it cannot be: {error.__context__ or error}")
        if not is_right:
            return self._refuse(shape, "it says something else than the model's modules")
        self._captured[shape] = (step, replay)
        return True

    def _captured_over(self, shape: PassShape, spans: Sequence[Span]) -> tuple[FixedStep, Replay]:
        step = FixedStep(shape, spare_row=self._spare_row, dtype=self._dtype, device=self._device)
        # Other tokens than those that it is compared over: what would be kept of these is seen.
        step.hold([replace(span, tokens=np.zeros_like(span.tokens)) for span in spans])

        def compute() -> None:
            computed = self._compute(step)
            if self._logits is None:
                self._logits = computed.new_empty((MOST_ROWS, computed.shape[1]))
            self._logits[: shape.rows].copy_(computed)

        return step, self._capture(compute)

    def _is_right(self, step: FixedStep, replay: Replay, spans: Sequence[Span]) -> bool:
        """Whether a replayed pass says at every row what the modules say. Leaves the rows' K and V
        as one of both wrote them."""
        asking = [replace(span, num_logits=span.num_rows) for span in spans]
        table = StepTable.build(asking, dtype=self._dtype, device=self._device)
        wanted = self._compute(table)
        assert self._logits is not None  # the capture made it
        self._logits.fill_(torch.nan)
        step.hold(asking)
        replay()
        ours = self._logits[step.wanted_rows]
        return bool((ours - wanted).abs().max() <= self._tolerance * wanted.abs().max())

    def _refuse(self, shape: PassShape, reason: str) -> bool:
        """Leave passes of ``shape`` to the modules, for good."""
        _log.warning("pass_not_captured", rows=shape.rows, keys=shape.keys, reason=reason)
        self._refused.add(shape)
        return False
