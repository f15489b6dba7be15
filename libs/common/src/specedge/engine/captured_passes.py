"""Short passes of a model captured once and replayed: on a GPU one launch instead of a thousand.

Owns which shapes were captured, and when to go without. What is captured is any model's own
forward pass, over tensors that stay where they are (``fixed_step``); nothing is known of its
layers. Whatever cannot be captured, or gives something else than the model's modules, is computed
by them, as before.
"""

from collections.abc import Callable, Sequence
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


class CudaCapture:
    """Captures into CUDA graphs of one memory pool. They are replayed one after the other, and what
    is wanted of one is copied out before the next: so they may share what they compute in."""

    # Of a first pass libraries make workspaces, which capturing forbids.
    _WARM_UP_PASSES: Final = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], None]) -> Replay:
        """Raises RuntimeError for what cannot be captured, such as a pass that asks the device
        something on its way."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            aside = torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(self._WARM_UP_PASSES):
                    compute()
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: another model's, beside this one.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                compute()
        return graph.replay


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
        if shape is None:
            return None
        if shape not in self._captured and not self._try_capture(shape, spans):
            return None
        step, replay = self._captured[shape]
        step.hold(spans)
        replay()
        return self._wanted(spans)

    def _try_capture(self, shape: PassShape, spans: Sequence[Span]) -> bool:
        """Capture a pass of ``shape`` over ``spans``. One that cannot be, or says something else
        than the modules, is the last that is tried: what ails it ails all of the model's."""
        step = FixedStep(shape, spare_row=self._spare_row, dtype=self._dtype, device=self._device)
        step.hold(spans)
        table = StepTable.build(spans, dtype=self._dtype, device=self._device)
        wanted = self._compute(table)
        if self._logits is None:
            self._logits = wanted.new_empty((MOST_ROWS, wanted.shape[1]))
        logits = self._logits[: shape.rows]
        try:
            replay = self._capture(lambda: _store(self._compute(step), logits))
        except RuntimeError as error:
            return self._give_up(f"one cannot be captured: {error}")
        replay()
        if not self._is_close(self._wanted(spans), wanted):
            return self._give_up("one says something else than the model's modules")
        self._captured[shape] = (step, replay)
        return True

    def _wanted(self, spans: Sequence[Span]) -> Tensor:
        assert self._logits is not None  # made before the first capture
        ends = np.cumsum([span.num_rows for span in spans])
        rows = [
            np.arange(end - span.num_logits, end) for end, span in zip(ends, spans, strict=True)
        ]
        return self._logits[torch.from_numpy(np.concatenate(rows)).to(self._device)]

    def _is_close(self, ours: Tensor, wanted: Tensor) -> bool:
        if not len(wanted):
            return True  # no row of this pass asked for logits
        return bool((ours - wanted).abs().max() <= self._tolerance * wanted.abs().max())

    def _give_up(self, reason: str) -> bool:
        _log.warning("passes are not captured", reason=reason)
        self._is_off = True
        self._captured.clear()
        return False


def _store(computed: Tensor, logits: Tensor) -> None:
    logits.copy_(computed)
