"""A pass of a few rows as one compiled call, where the model is of the usual kind.

Owns what ``decoder_kernel`` is handed; which models are usual is ``usual_decoder``'s. Knows nothing
of sessions or trees; a model's own modules stay as they are, for longer passes.
"""

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specedge.engine import decoder_kernel, matrix_products, row_kernels
from specedge.engine.attention_kernel import Heads
from specedge.engine.fused_norm import FusedRmsNorm
from specedge.engine.kv_cache import SlottedKVCache
from specedge.engine.model_fit import context_limit
from specedge.engine.step_table import StepTable, View
from specedge.engine.usual_decoder import kind_of
from specedge.engine.weight_forms import WeightForm

# Above, modules cost little beside their arithmetic.
MOST_ROWS: Final = 48
# What no row may see: far below every score, and a number.
UNSEEN: Final = -1e30
_FIRST_POSITIONS: Final = 1024


class CompiledDecoder:
    """The compiled passes of ``model``, whose K and V are in ``cache``. One owner thread."""

    def __init__(self, model: PreTrainedModel, cache: SlottedKVCache) -> None:
        """``model`` is one that ``is_usual``. Raises AttributeError or TypeError where its parts
        are called otherwise after all."""
        decoder: Any = model.get_decoder()
        first = decoder.layers[0]
        keys, _ = cache.planes(0)
        groups, stride, dim = keys.shape
        self._heads = Heads(first.self_attn.q_proj.out_features // dim, groups, dim)
        self._embedding: nn.Module = decoder.embed_tokens
        self._hidden = int(decoder.norm.weight.shape[0])
        self._inner = int(first.mlp.gate_proj.out_features)
        rows = [_addresses(layer, cache, number) for number, layer in enumerate(decoder.layers)]
        self._table = np.array(rows, dtype=np.int64)
        matrices = (
            matrix_products.in_integers()
            if kind_of(first.self_attn.q_proj) == "integers"
            else matrix_products.in_floats(_forms(self._table))
        )
        self._layers = decoder_kernel.layers_of(self._heads, matrices)
        self._rotary: nn.Module = decoder.rotary_emb
        self._limit = context_limit(model.config.get_text_config())
        self._head = _Head(decoder.norm, model.get_output_embeddings())
        self._step = np.zeros(decoder_kernel.NUM_IN_STEP, dtype=np.int64)
        self._arrays: dict[int, Any] = {}  # what the step's addresses are of
        self._step[decoder_kernel.HIDDEN] = self._hidden
        self._step[decoder_kernel.INNER] = self._inner
        self._step[decoder_kernel.STRIDE] = stride
        self._hold_scratch()
        self._hold(decoder_kernel.EPS, self._head.eps)
        self._hold_angles(_FIRST_POSITIONS)
        self._lives = (model, cache)  # with what the table's addresses are of

    def has_room_for(self, table: StepTable) -> bool:
        """Whether the step is short enough to be computed here."""
        return table.arena_rows.shape[0] <= MOST_ROWS

    def forward(self, table: StepTable) -> Tensor:
        """Logits (L, V) float32 of a step that there is room for; writes its rows' K and V."""
        x = self._embedding(table.token_ids)[0]
        positions = table.position_ids[0].numpy()
        highest = int(positions.max())
        if highest >= len(self._arrays[decoder_kernel.COSINE]):
            self._hold_angles(highest + 1)
        self._step[decoder_kernel.ROWS] = len(x)
        self._hold(decoder_kernel.X, x.numpy())
        self._hold(decoder_kernel.POSITIONS, positions)
        self._hold(decoder_kernel.ARENA_ROWS, table.arena_rows.numpy())
        self._hold_spans(*_visible(table.views(None)))
        self._layers(self._table.ctypes.data, len(self._table), self._step.ctypes.data)
        return self._head.logits(x[table.logit_rows])

    def _hold(self, place: int, array: Any) -> None:
        """Put the address of ``array`` into the step; it lives until another takes its place."""
        self._arrays[place] = array
        self._step[place] = array.ctypes.data

    def _hold_spans(self, spans: Any, bias: Any) -> None:
        self._hold(decoder_kernel.SPANS, spans)
        self._hold(decoder_kernel.BIAS, bias)
        self._step[decoder_kernel.NUM_SPANS] = len(spans)
        longest = int((spans[:, 3] - spans[:, 2]).max())
        if longest > self._arrays[decoder_kernel.SCORES].shape[1]:
            self._hold_keys(2 * longest)

    def _hold_keys(self, most: int) -> None:
        """Scratch for spans of up to so many keys."""
        scores = np.empty((MOST_ROWS * self._heads.sharers, most), dtype=np.float32)
        self._hold(decoder_kernel.SCORES, scores)
        powers = np.empty(max(most, 2 * self._inner), dtype=np.float32)
        self._hold(decoder_kernel.POWERS, powers)

    def _hold_scratch(self) -> None:
        heads, hidden, inner = self._heads, self._hidden, self._inner
        for place, width in (
            (decoder_kernel.NORMED, hidden),
            (decoder_kernel.MIXED, heads.width),
            (decoder_kernel.QUERIES, heads.width),
            (decoder_kernel.NEW_KEYS, heads.key_width),
            (decoder_kernel.NEW_VALUES, heads.key_width),
            (decoder_kernel.GATES, inner),
            (decoder_kernel.UPS, inner),
            (decoder_kernel.ROW_SCALE, 1),
        ):
            self._hold(place, np.empty((MOST_ROWS, width), dtype=np.float32))
        widest = max(hidden, heads.width, inner)
        self._hold(decoder_kernel.ROUNDED, np.empty((MOST_ROWS, widest), dtype=np.int16))
        self._hold_keys(_FIRST_POSITIONS)

    def _hold_angles(self, wanted: int) -> None:
        """Cosines and sines (positions, dim) of at least ``wanted`` positions."""
        positions = torch.arange(max(wanted, min(2 * wanted, self._limit)))
        cosine, sine = self._rotary(torch.zeros(1), positions[None])
        if cosine.shape != (1, len(positions), self._heads.dim):
            raise TypeError("rotary positions of a part of the numbers")
        self._hold(decoder_kernel.COSINE, cosine[0].contiguous().numpy())
        self._hold(decoder_kernel.SINE, sine[0].contiguous().numpy())


class _Head:
    """A model's last norm, with the ``eps`` of all of them, and its head."""

    def __init__(self, norm: FusedRmsNorm, head: Any) -> None:
        self._norm, self._matrix = norm, head
        self.eps = np.array([norm.eps], dtype=np.float32)
        self._normalise = row_kernels.normalising()

    def logits(self, x: Tensor) -> Tensor:
        """(L, V) of rows (L, hidden)."""
        normed, (rows, hidden) = torch.empty_like(x), x.shape
        weight, eps = self._norm.weight.data_ptr(), self.eps.ctypes.data
        self._normalise(x.data_ptr(), weight, eps, normed.data_ptr(), rows, hidden)
        logits: Tensor = self._matrix(normed)
        return logits


def _addresses(layer: Any, cache: SlottedKVCache, number: int) -> list[int]:
    """A row of the kernel's table."""
    attention, feed_forward = layer.self_attn, layer.mlp
    keys, values = cache.planes(number)
    return [
        layer.input_layernorm.weight.data_ptr(),
        *attention.q_proj.addresses,
        *attention.k_proj.addresses,
        *attention.v_proj.addresses,
        *attention.o_proj.addresses,
        layer.post_attention_layernorm.weight.data_ptr(),
        *feed_forward.gate_proj.addresses,
        *feed_forward.up_proj.addresses,
        *feed_forward.down_proj.addresses,
        keys.data_ptr(),
        values.data_ptr(),
    ]


def _forms(table: Any) -> frozenset[WeightForm]:
    """Of the matrices of a table in float32."""
    forms = table[:, [place + 1 for place in decoder_kernel.MATRICES]]
    return frozenset(WeightForm(form) for form in np.unique(forms))


def _visible(views: list[View]) -> tuple[Any, Any]:
    """The kernel's ``spans`` and ``bias``."""
    spans = np.empty((len(views), 5), dtype=np.int64)
    biases: list[Tensor] = []
    begin = 0
    for place, view in enumerate(views):
        bias = view.bias
        if view.causal:
            rows = view.rows.stop - view.rows.start
            bias = torch.full((rows, rows), UNSEEN).triu(1)
        start = -1
        if bias is not None:
            start = begin
            begin += bias.numel()
            biases.append(bias.flatten())
        spans[place] = view.rows.start, view.rows.stop, view.first, view.last, start
    flat = torch.cat(biases).clamp(min=UNSEEN) if biases else torch.zeros(1)
    return spans, flat.numpy()
