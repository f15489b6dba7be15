"""A causal language model over slotted KV: tokens of many sessions in, logits out.

What the target and the drafter share. Owns the model and its cache; knows nothing of sampling,
verdicts or ports. One owner thread.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from specedge.engine import model_fit, tree_attention
from specedge.engine.captured_passes import CapturedPasses, CudaCapture
from specedge.engine.fixed_step import FixedStep
from specedge.engine.fused_norm import fuse_norms
from specedge.engine.kv_cache import SlottedKVCache
from specedge.engine.memory_shortage import needed_for
from specedge.engine.packed_linear import has_panels, quicken
from specedge.engine.step_table import Span, StepTable, chain_span, tree_span
from specedge.engine.tree_attention import ATTENTION_NAME, TreeStep
from specedge.errors import ModelUnusable
from specedge.tree.token_tree import TokenTree

if TYPE_CHECKING:
    from specedge.engine.compiled_decoder import CompiledDecoder

# With how many tokens, and how nearly, a compiled pass has to agree with the modules': where
# weights are rounded, both round their inputs.
_TRIED_TOKENS: Final = 7
_ROUNDED_TOLERANCE: Final = 2e-2
_EXACT_TOLERANCE: Final = 1e-4
# Rows of the passes that are captured before the first is asked for.
_CAPTURED_AT_ONCE: Final = (1, 2, 4, 8, 16)


class TreeModel:
    """``model`` bound to tree attention and a cache of ``kv_bytes`` in ``num_slots`` slots.

    Takes the model over: its attention implementation stays changed, its norms too (``is_exact``:
    only where that changes no bit), and on a CPU its linear layers (``may_round``: with rounded
    weights; ``whole_weights``: of four bytes each, whatever fewer would hold them); its weights
    must not change any more. Raises ModelUnusable where tree attention does not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_slots: int,
        kv_bytes: int,
        may_round: bool = False,
        is_exact: bool = True,
        whole_weights: bool = False,
    ) -> None:
        model_fit.check_config(model)
        facts = model_fit.probe(model)
        tree_attention.register()
        self.model = model
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.plain_attention: str = model.config._attn_implementation
        with needed_for(f"{kv_bytes} bytes of keys and values"):
            self.cache = SlottedKVCache(
                [fact.shape for fact in facts],
                num_slots=num_slots,
                kv_bytes=kv_bytes,
                dtype=self.dtype,
                device=self.device,
            )
        self._selects_rows = "logits_to_keep" in inspect.signature(model.forward).parameters
        model.set_attn_implementation(ATTENTION_NAME)
        quicken(model, may_round=may_round, whole=whole_weights)
        fuse_norms(model, may_round=not is_exact)
        tolerance = _ROUNDED_TOLERANCE if may_round else _EXACT_TOLERANCE
        self._compiled = self._compile(facts, tolerance) if has_panels(model) else None
        self._captured: CapturedPasses | None = None

    def forward(self, spans: Sequence[Span]) -> Tensor:
        """One pass; writes all rows' K and V. Logits (L, V) in the model's dtype, for the rows
        that asked, session by session. Call in inference mode."""
        captured = self._captured and self._captured.try_forward(spans)
        if captured is not None:
            return captured
        table = StepTable.build(spans, dtype=self.dtype, device=self.device)
        if self._compiled is not None and self._compiled.has_room_for(table):
            return self._compiled.forward(table)
        return self._forward(table)

    def capture(self) -> None:
        """On a GPU, replay short passes from now on; nothing anywhere else. Those of a few rows are
        captured at once, so that no first draft waits for it."""
        if self.device.type != "cuda":
            return
        self._captured = CapturedPasses(
            self._forward,
            CudaCapture(self.device),
            spare_row=self.cache.spare_row,
            dtype=self.dtype,
            device=self.device,
        )
        vocab_size = int(self.model.config.get_text_config().vocab_size)
        tokens = np.arange(1, 1 + max(_CAPTURED_AT_ONCE), dtype=np.int32) % vocab_size
        slot = self.cache.lease(len(tokens))
        offset = self.cache.offset(slot)
        try:
            with torch.inference_mode():
                for rows in _CAPTURED_AT_ONCE:
                    chain = chain_span(tokens[:rows], start=0, offset=offset, num_logits=rows)
                    self._captured.try_forward([chain])
        finally:
            self.cache.release(slot)

    def _forward(self, table: StepTable | FixedStep) -> Tensor:
        """By the model's own modules."""
        keep = {"logits_to_keep": table.logit_rows} if self._selects_rows else {}
        output = self.model(
            input_ids=table.token_ids,
            position_ids=table.position_ids,
            use_cache=False,
            tree_step=TreeStep(table, self.cache),
            **keep,
        )
        logits: Tensor = output.logits[0]
        return logits if self._selects_rows else logits[table.logit_rows]

    def _compile(
        self, facts: Sequence[model_fit.AttentionFacts], tolerance: float
    ) -> "CompiledDecoder | None":
        """What computes short passes, if the model is of the kind that there is code for, and gives
        what its modules give, within so much of the largest logit."""
        # numba: only where there is something to compile
        from specedge.engine import compiled_decoder, usual_decoder

        if not usual_decoder.is_usual(self.model, facts):
            return None
        slot = self.cache.lease(_TRIED_TOKENS)
        tokens = np.arange(1, _TRIED_TOKENS + 1, dtype=np.int32)
        offset = self.cache.offset(slot)
        span = chain_span(tokens, start=0, offset=offset, num_logits=_TRIED_TOKENS)
        table = StepTable.build([span], dtype=self.dtype, device=self.device)
        try:
            compiled = compiled_decoder.CompiledDecoder(self.model, self.cache)
            with torch.inference_mode():
                ours, wanted = compiled.forward(table), self._forward(table)
        except (AttributeError, TypeError):  # a family that calls its parts otherwise
            return None
        finally:
            self.cache.release(slot)
        return compiled if _is_close(ours, wanted, tolerance) else None


def self_check(tree_model: TreeModel) -> None:
    """Compare a small tree with the model's own forward over each of its paths.

    Catches, at load, whatever a model does that its config does not tell. Raises ModelUnusable.
    """
    model = tree_model.model
    try:
        ours, wanted = _both_logits(tree_model)
    except (RuntimeError, TypeError) as error:
        raise ModelUnusable(
            f"tree attention cannot run {model.config.model_type}: {error}"
        ) from error
    tolerance = (1e-3 if tree_model.dtype == torch.float32 else 5e-2) * wanted.abs().max()
    gap = (ours - wanted).abs().max()
    if not bool(gap <= tolerance):
        raise ModelUnusable(
            f"tree attention does not reproduce {model.config.model_type}: logits differ by "
            f"{float(gap):.3g} (at most {float(tolerance):.3g} is rounding)"
        )


def _is_close(ours: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((ours - wanted).abs().max() <= tolerance * wanted.abs().max())


# Node ids from the root to each leaf of the tree in ``self_check``.
_SELF_CHECKED: tuple[list[int], ...] = ([0, 1, 3], [0, 2, 4])


def _both_logits(tree_model: TreeModel) -> tuple[Tensor, Tensor]:
    """(2, V) each: at the leaves, of tree attention and of the model's own forward."""
    cache = tree_model.cache
    vocab_size = int(tree_model.model.config.get_text_config().vocab_size)
    tokens = ((np.arange(10, dtype=np.int64) * 7919 + 11) % vocab_size).astype(np.int32)
    prefix, tree = tokens[:5], TokenTree.from_parents(tokens[5:], [-1, 0, 0, 1, 2])
    slot = cache.lease(len(tokens))
    with torch.inference_mode():
        try:
            offset = cache.offset(slot)
            tree_model.forward([chain_span(prefix, start=0, offset=offset, num_logits=0)])
            span = tree_span(tree.token[:1], tree, start=len(prefix), offset=offset)
            ours = tree_model.forward([span])[-2:]
        finally:
            cache.release(slot)
        plain = [_plain_logits(tree_model, [*prefix, *tree.token[path]]) for path in _SELF_CHECKED]
    return ours, torch.stack(plain)


def _plain_logits(tree_model: TreeModel, tokens: Sequence[int]) -> Tensor:
    ids = torch.as_tensor([[int(token) for token in tokens]], device=tree_model.device)
    with model_fit.attention(tree_model.model, tree_model.plain_attention):
        output = tree_model.model(input_ids=ids, use_cache=False)
    last: Tensor = output.logits[0, -1]
    return last
