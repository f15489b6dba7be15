"""A drafter's short pass, compiled: what the model's own modules give, where it is of the kind."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.granite import GraniteConfig
from transformers.models.mistral import MistralConfig

from specedge.engine.compiled_decoder import MOST_ROWS, CompiledDecoder
from specedge.engine.model_fit import probe
from specedge.engine.packed_linear import Int8Linear
from specedge.engine.step_table import Span, StepTable, chain_span, tree_span
from specedge.engine.tree_model import TreeModel
from specedge.engine.usual_decoder import is_usual
from specedge.tree.token_tree import IntArray
from tests.oracle.random_trees import random_tokens, random_tree
from tests.oracle.tiny_models import FAMILIES, KV_BYTES, VOCAB_SIZE, build

# Of the largest logit: both round their inputs to int16, at places that rounding may move.
CLOSE = 2e-3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def rounded(model: PreTrainedModel) -> TreeModel:
    return TreeModel(model, num_slots=8, kv_bytes=KV_BYTES, may_round=True, is_exact=False)


def granite(**multipliers: float) -> PreTrainedModel:
    """A family whose layers look like llama's and multiply what they add."""
    config = GraniteConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        **multipliers,
    )
    return AutoModelForCausalLM.from_config(config).eval()


class Twin:
    """One session in two caches: of the compiled passes, and of the modules."""

    def __init__(self, pair: tuple[TreeModel, TreeModel], committed: IntArray) -> None:
        self.pair = pair
        self.committed = committed
        self.slots = [model.cache.lease(400) for model in pair]

    def spans(self, first: int, last: int, nodes: int = 0, seed: int = 0) -> tuple[Span, Span]:
        """Tokens first … last - 1, and a tree of so many nodes on the last of them."""
        chain = self.committed[first:last]
        tree = random_tree(np.random.default_rng(seed), int(chain[-1]), nodes)
        one, other = (
            tree_span(chain, tree, start=first, offset=model.cache.offset(slot))
            for model, slot in zip(self.pair, self.slots, strict=True)
        )
        return one, other


def pair_of(model: PreTrainedModel, plain: PreTrainedModel) -> tuple[TreeModel, TreeModel]:
    """The same model, with compiled short passes and without."""
    compiled, modules = rounded(model), rounded(plain)
    assert compiled._compiled is not None
    modules._compiled = None
    return compiled, modules


@pytest.fixture
def pair() -> tuple[TreeModel, TreeModel]:
    return pair_of(build("llama"), build("llama"))


def assert_same(pair: tuple[TreeModel, TreeModel], spans: list[tuple[Span, Span]]) -> None:
    ours, wanted = (
        model.forward([both[place] for both in spans]) for place, model in enumerate(pair)
    )
    assert ours.shape == wanted.shape
    assert (ours - wanted).abs().max() <= CLOSE * wanted.abs().max()


def test_logits_of_trees_of_several_sessions_are_those_of_the_modules(
    pair: tuple[TreeModel, TreeModel],
) -> None:
    rng = np.random.default_rng(1)
    sizes = [(1, 5), (9, 0), (40, 7), (133, 3)]
    twins = [Twin(pair, random_tokens(rng, length)) for length, _ in sizes]
    for twin in twins:
        if len(twin.committed) > 1:
            assert_same(pair, [twin.spans(0, len(twin.committed) - 1)])
    spans = [
        twin.spans(len(twin.committed) - 1, len(twin.committed), nodes, seed)
        for seed, (twin, (_, nodes)) in enumerate(zip(twins, sizes, strict=True))
    ]
    assert sum(one.num_rows for one, _ in spans) <= MOST_ROWS
    assert_same(pair, spans)


def test_short_and_long_passes_leave_each_other_the_same_keys(
    pair: tuple[TreeModel, TreeModel],
) -> None:
    twin = Twin(pair, random_tokens(np.random.default_rng(2), 120))
    for first, last in ((0, 3), (3, 3 + MOST_ROWS), (27, 90), (90, 91), (91, 119)):
        assert_same(pair, [twin.spans(first, last)])
    assert_same(pair, [twin.spans(119, 120, nodes=9)])


def test_positions_beyond_the_first_angles_are_rotated_as_the_model_does(
    pair: tuple[TreeModel, TreeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pair[0]._compiled is not None
    few = CompiledDecoder(pair[0].model, pair[0].cache)
    few._hold_angles(2)
    monkeypatch.setattr(pair[0], "_compiled", few)
    twin = Twin(pair, random_tokens(np.random.default_rng(3), 80))
    for first in range(0, 80, 16):
        assert_same(pair, [twin.spans(first, first + 16)])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_another_kind_keep_their_modules(family: str) -> None:
    assert (rounded(build(family))._compiled is not None) == (family == "llama")


def test_a_family_of_the_same_kind_is_compiled_too() -> None:
    config = MistralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=None,
    )
    torch.manual_seed(1)
    model, plain = (AutoModelForCausalLM.from_config(config).eval() for _ in range(2))
    plain.load_state_dict(model.state_dict())
    pair = pair_of(model, plain)
    twin = Twin(pair, random_tokens(np.random.default_rng(4), 30))
    assert_same(pair, [twin.spans(0, 20)])
    assert_same(pair, [twin.spans(20, 30, nodes=6)])


def test_what_only_looks_usual_is_found_out_by_its_logits() -> None:
    model = granite(residual_multiplier=0.3, attention_multiplier=0.5)
    probed = probe(model)
    odd = rounded(model)
    assert is_usual(odd.model, probed)
    assert odd._compiled is None


@pytest.mark.parametrize(
    "odd", [{"value_dim": 4}, {"value_heads": 1}, {"key_dim": 16, "value_dim": 16}]
)
def test_layers_of_other_sizes_are_not_usual(odd: dict[str, int]) -> None:
    facts = probe(build("llama"))
    model = rounded(build("llama")).model
    assert is_usual(model, facts)
    assert not is_usual(
        model, [replace(facts[0], shape=replace(facts[0].shape, **odd)), *facts[1:]]
    )


def test_matrices_of_other_sizes_are_not_usual() -> None:
    facts = probe(build("llama"))
    model = rounded(build("llama")).model
    first = model.get_decoder().layers[0].mlp
    first.gate_proj, first.up_proj = (Int8Linear(nn.Linear(48, 32, bias=False)) for _ in range(2))
    first.down_proj = Int8Linear(nn.Linear(32, 48, bias=False))
    assert not is_usual(model, facts)


def test_rotary_positions_of_a_part_of_a_head_are_left_to_the_modules() -> None:
    model = rounded(build("llama"))
    rotary = model.model.get_decoder().rotary_emb
    rotary.inv_freq = rotary.inv_freq[:2]
    with pytest.raises(TypeError, match="rotary"):
        CompiledDecoder(model.model, model.cache)


def test_exact_models_are_not_compiled() -> None:
    assert TreeModel(build("llama"), num_slots=1, kv_bytes=KV_BYTES)._compiled is None


def test_broken_weights_give_no_numbers(pair: tuple[TreeModel, TreeModel]) -> None:
    model, _ = pair
    layer = model.model.get_decoder().layers[1]
    layer.input_layernorm.weight[3] = torch.nan
    slot = model.cache.lease(8)
    span = chain_span(
        np.arange(4, dtype=np.int32), start=0, offset=model.cache.offset(slot), num_logits=4
    )
    table = StepTable.build([span], dtype=model.dtype, device=model.device)
    assert model._compiled is not None
    assert model._compiled.has_room_for(table)
    assert model.forward([span]).isnan().all()
