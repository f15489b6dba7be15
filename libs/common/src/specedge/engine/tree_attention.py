"""Attention over slotted KV for many sessions in one row, as a transformers attention function.

Owns how a layer's new K and V reach the arena and how each session's rows attend. Which rows see
which is in the ``StepTable``, or the ``FixedStep``, that comes through the model's keyword
arguments; this file knows nothing of trees, sampling or leases.

Softmax attention with scaling, grouped heads, sliding windows, soft-capping and attention sinks is
served. Everything else a model may ask of its attention is refused when the model is loaded.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from specedge.engine.fixed_step import FixedStep
from specedge.engine.kv_cache import SlottedKVCache
from specedge.engine.step_table import StepTable, View
from specedge.errors import ModelUnusable

ATTENTION_NAME: Final = "specedge_tree"
# Above this many rows the query of a group is no longer folded into one tall matrix: the repeated
# bias would cost more than that saves.
FOLD_MAX_ROWS: Final = 128
# So many rows' scores are kept at once where no kernel attends without keeping them: of a chunk of
# a long prompt they would take gigabytes.
SCORED_ROWS: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class TreeStep:
    """What the attention function needs of a step: the model's keyword ``tree_step``."""

    table: StepTable | FixedStep
    cache: SlottedKVCache


def register() -> None:
    """Make the attention known to transformers. Idempotent.

    No mask is registered beside it: visibility comes from the ``StepTable``, and transformers then
    looks at no position ids, which on a GPU would wait for the device in every pass.

    Of torch's own attention cuDNN's is left out: it plans anew for every number of keys, and here
    that is another one in every step.
    """
    AttentionInterface.register(ATTENTION_NAME, tree_attention)
    torch.backends.cuda.enable_cudnn_sdp(False)


def tree_attention(  # noqa: PLR0913 (the signature is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    tree_step: TreeStep | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """(1, heads, N, dim) query and (1, kv_heads, N, dim) key, value → (1, N, heads, dim).

    Writes K and V into the arena at the step's rows, then attends session by session.
    """
    if tree_step is None:
        raise ModelUnusable("the model does not hand keyword arguments on to its attention layers")
    keys, values = tree_step.cache.planes(int(module.layer_idx))
    table = tree_step.table
    keys.index_copy_(1, table.arena_rows, key[0])
    values.index_copy_(1, table.arena_rows, value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    explicit = softcap is not None or s_aux is not None
    outputs: list[Tensor] = []
    for view in table.views(sliding_window):
        q = query[:, :, view.rows]
        k, v = view.of(keys)[None], view.of(values)[None]
        if explicit:
            outputs.append(_attend_explicitly(q, k, v, view, scale, softcap, s_aux))
        else:
            outputs.append(_attend(q, k, v, view, scale))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), None


def _attend(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float) -> Tensor:
    """(1, H, n, D) → (1, n, H, Dv)."""
    heads, rows, groups = q.shape[1], q.shape[2], k.shape[1]
    if view.causal or rows > FOLD_MAX_ROWS:
        return _attend_by_groups(q, k, v, view, scale)
    # The query heads that share a K head become rows of one matrix: no repeated K, one kernel.
    folded = q.reshape(1, groups, -1, q.shape[3])  # (1, G, H/G * n, D)
    bias = view.folded(heads // groups)
    out = functional.scaled_dot_product_attention(folded, k, v, attn_mask=bias, scale=scale)
    out = out.reshape(1, heads, rows, v.shape[3])
    return out.transpose(1, 2)


def _attend_by_groups(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float) -> Tensor:
    """The same for many rows: a batch of as many parts as heads share a K head, each with all K
    heads, so that neither K nor bias is repeated. Torch's ``enable_gqa`` says the same, but of a
    GPU's kernels those that take a bias do not know it: all scores would be kept at once, in
    float32, beside a repeated K."""
    heads, rows, groups = q.shape[1], q.shape[2], k.shape[1]
    group = heads // groups
    out = functional.scaled_dot_product_attention(
        q.reshape(groups, group, rows, q.shape[3]).transpose(0, 1),
        k.expand(group, -1, -1, -1),
        v.expand(group, -1, -1, -1),
        attn_mask=view.bias,
        is_causal=view.causal,
        scale=scale,
    )  # (H/G, G, n, Dv)
    return out.permute(2, 1, 0, 3).reshape(1, rows, heads, v.shape[3])


def _attend_explicitly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    view: View,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The same, with soft-capped scores or a sink per head, which no fused kernel here has: the
    scores of some rows at a time are all kept."""
    rows, keys, values = q.shape[2], k[0].float(), v[0].float()
    bias = _causal_bias(rows, keys) if view.causal else view.bias
    outputs: list[Tensor] = []
    for first in range(0, rows, SCORED_ROWS):
        part = slice(first, first + SCORED_ROWS)
        seen = None if bias is None else bias[part]
        outputs.append(_attend_by_scores(q[:, :, part], keys, values, seen, scale, softcap, sinks))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _attend_by_scores(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """(1, H, n, D) → (1, n, H, Dv); keys and values (G, keys, …) float32."""
    heads, rows, groups = q.shape[1], q.shape[2], keys.shape[0]
    folded = q.reshape(groups, heads // groups * rows, q.shape[3]).float()
    scores = torch.bmm(folded, keys.transpose(1, 2)) * scale
    scores = scores.view(heads, rows, keys.shape[1])
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    if sinks is not None:
        sink = sinks.float().view(heads, 1, 1).expand(heads, rows, 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(dim=-1)[..., : keys.shape[1]]
    weights = weights.reshape(groups, heads // groups * rows, keys.shape[1])
    out = torch.bmm(weights, values).to(q.dtype)
    return out.view(1, heads, rows, values.shape[2]).transpose(1, 2)


def _causal_bias(rows: int, keys: Tensor) -> Tensor:
    return keys.new_full((rows, rows), -torch.inf).triu(1)
