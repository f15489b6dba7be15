"""The target engine on torch: steps, choices, and the rows that a verdict keeps.

Implements ``TargetEngine``. Owns which rows a slot holds; the forward pass is TreeModel's, the
choice the sampler's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from specedge.engine.memory_shortage import leaving_nothing
from specedge.engine.ports import (
    KvUse,
    ModelIdentity,
    NodeChoices,
    StepItem,
)
from specedge.engine.sampling import choose_nodes
from specedge.engine.step_table import Span, chain_span, tree_span
from specedge.engine.torch_model import LoadedModel
from specedge.engine.tree_model import TreeModel, self_check
from specedge.errors import ContextTooLong
from specedge.ids import Slot
from specedge.tree.token_tree import IntArray


class TorchTarget:
    """A loaded model with its KV cache. One owner thread; see ``TargetEngine`` for the contract.

    ``kv_bytes`` bounds the cache; ``whole_weights`` as for TreeModel. Raises ModelUnusable if the
    engine does not reproduce the model.
    """

    def __init__(
        self, loaded: LoadedModel, *, num_slots: int, kv_bytes: int, whole_weights: bool = False
    ) -> None:
        self._identity = loaded.identity
        self._tree_model = TreeModel(
            loaded.model, num_slots=num_slots, kv_bytes=kv_bytes, whole_weights=whole_weights
        )
        self._cache = self._tree_model.cache
        self_check(self._tree_model)
        self._tree_model.capture()

    @property
    def identity(self) -> ModelIdentity:
        """Names and fingerprints of the loaded model."""
        return self._identity

    def lease(self, num_tokens: int) -> Slot:
        """Lease a slot with room for ``num_tokens`` rows. Raises Busy."""
        return self._cache.lease(num_tokens)

    def release(self, slot: Slot) -> None:
        """Give a slot back; its rows are gone."""
        self._cache.release(slot)

    @leaving_nothing()
    @torch.inference_mode()
    def step(self, items: Sequence[StepItem]) -> list[NodeChoices | None]:
        """One forward pass over all items; see ``TargetEngine.step``.

        Raises Busy when a slot cannot grow, ContextTooLong past the model's positions; no row of
        the step is written then.
        """
        if not items:
            return []
        self._make_room(items)
        logits = self._tree_model.forward([self._span(item) for item in items])
        logits = logits[:, : self._identity.vocab_size]
        return self._choose(items, logits)

    @torch.inference_mode()
    def keep(self, slot: Slot, base: int, path: IntArray) -> None:
        """Move the accepted nodes' rows behind ``base``; see ``TargetEngine.keep``."""
        self._cache.move_path(slot, base, path)

    @torch.inference_mode()
    def copy_rows(self, source: Slot, destination: Slot, num_rows: int) -> None:
        """Copy rows [0, num_rows) of one slot into another. Raises Busy."""
        self._cache.copy_rows(source, destination, num_rows)

    def kv_use(self) -> KvUse:
        """Slots leased and in all, and bytes of the leased blocks."""
        return KvUse(self._cache.slots_used, self._cache.num_slots, self._cache.bytes_held)

    def _make_room(self, items: Sequence[StepItem]) -> None:
        limit = self._identity.max_context_tokens
        for item in items:
            depth = 0 if item.tree is None else int(item.tree.depth.max())
            length = item.start + len(item.chain) + depth
            if length > limit:
                message = f"{length} tokens down to the deepest node; the model serves {limit}"
                raise ContextTooLong(message, field="context")
        for item in items:
            self._cache.grow(item.slot, item.start + item.num_rows, item.start)

    def _span(self, item: StepItem) -> Span:
        offset = self._cache.offset(item.slot)
        if item.tree is None:
            return chain_span(item.chain, start=item.start, offset=offset, num_logits=0)
        return tree_span(item.chain, item.tree, start=item.start, offset=offset)

    def _choose(self, items: Sequence[StepItem], logits: Tensor) -> list[NodeChoices | None]:
        choosing = [
            (item.tree, item.choosing)
            for item in items
            if item.tree is not None and item.choosing is not None
        ]
        chosen = iter(choose_nodes(logits, choosing))
        return [None if item.tree is None else next(chosen) for item in items]
