"""A short pass, compiled: what the model's own modules give, where it is of the kind."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.granite import GraniteConfig
from transformers.models.mistral import MistralConfig

from specedge.engine import packed_linear
from specedge.engine.compiled_decoder import MOST_ROWS, CompiledDecoder
from specedge.engine.model_fit import probe
from specedge.engine.packed_linear import Int8Linear, linear_layers
from specedge.engine.step_table import Span, StepTable, chain_span, tree_span
from specedge.engine.tree_model import TreeModel
from specedge.engine.usual_decoder import Kind, is_usual
from specedge.tree.token_tree import IntArray
from tests.oracle.random_trees import random_tokens, random_tree
from tests.oracle.tiny_models import FAMILIES, KV_BYTES, VOCAB_SIZE, build

# Of the largest logit. In integers, both round inputs to int16, at places that rounding may move.
CLOSE = {"integers": 2e-3, "floats": 1e-5}


@pytest.fixture(autouse=True)
def inference(one_thread: None, packed_whatever_the_size: None) -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=["integers", "floats"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """How the matrices multiply: as a drafter's, or as a target's."""
    chosen: Kind = request.param
    return chosen


def of_kind(model: PreTrainedModel, kind: Kind) -> TreeModel:
    rounds = kind == "integers"
    return TreeModel(model, num_slots=8, kv_bytes=KV_BYTES, may_round=rounds, is_exact=not rounds)


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

    def __init__(self, pair: "Pair", committed: IntArray) -> None:
        self.pair = pair.models
        self.committed = committed
        self.slots = [model.cache.lease(400) for model in pair.models]

    def spans(self, first: int, last: int, nodes: int = 0, seed: int = 0) -> tuple[Span, Span]:
        """Tokens first … last - 1, and a tree of so many nodes on the last of them."""
        chain = self.committed[first:last]
        tree = random_tree(np.random.default_rng(seed), int(chain[-1]), nodes)
        one, other = (
            tree_span(chain, tree, start=first, offset=model.cache.offset(slot))
            for model, slot in zip(self.pair, self.slots, strict=True)
        )
        return one, other


class Pair:
    """The same model, with compiled short passes and without."""

    def __init__(self, model: PreTrainedModel, plain: PreTrainedModel, kind: Kind) -> None:
        self.models = of_kind(model, kind), of_kind(plain, kind)
        self.compiled, modules = self.models
        self.close = CLOSE[kind]
        assert self.compiled._compiled is not None
        modules._compiled = None

    def assert_same(self, spans: list[tuple[Span, Span]]) -> None:
        ours, wanted = (
            model.forward([both[place] for both in spans])
            for place, model in enumerate(self.models)
        )
        assert ours.shape == wanted.shape
        assert (ours - wanted).abs().max() <= self.close * wanted.abs().max()


@pytest.fixture
def pair(kind: Kind) -> Pair:
    return Pair(build("llama"), build("llama"), kind)


def test_logits_of_trees_of_several_sessions_are_those_of_the_modules(
    pair: Pair,
) -> None:
    rng = np.random.default_rng(1)
    sizes = [(1, 5), (9, 0), (40, 7), (133, 3)]
    twins = [Twin(pair, random_tokens(rng, length)) for length, _ in sizes]
    for twin in twins:
        if len(twin.committed) > 1:
            pair.assert_same([twin.spans(0, len(twin.committed) - 1)])
    spans = [
        twin.spans(len(twin.committed) - 1, len(twin.committed), nodes, seed)
        for seed, (twin, (_, nodes)) in enumerate(zip(twins, sizes, strict=True))
    ]
    assert sum(one.num_rows for one, _ in spans) <= MOST_ROWS
    pair.assert_same(spans)


def test_matrices_whose_weights_are_kept_in_unlike_numbers_of_bytes_are_computed_together() -> None:
    models = build("llama"), build("llama")
    for model in models:
        for number, (_, _, matrix) in enumerate(linear_layers(model, torch.float32)):
            bits = matrix.weight.view(torch.int32)
            bits &= -1 << 8 * (number % 3)
    pair = Pair(*models, "floats")
    twin = Twin(pair, random_tokens(np.random.default_rng(2), 9))

    layer = pair.compiled.model.get_decoder().layers[0]
    attention = layer.self_attn
    forms = {matrix.addresses[1] for matrix in (attention.q_proj, attention.k_proj)}
    assert len(forms) == 2
    pair.assert_same([twin.spans(0, 8)])
    pair.assert_same([twin.spans(8, 9, 5)])


def test_short_and_long_passes_leave_each_other_the_same_keys(
    pair: Pair,
) -> None:
    twin = Twin(pair, random_tokens(np.random.default_rng(2), 120))
    for first, last in ((0, 3), (3, 3 + MOST_ROWS), (27, 90), (90, 91), (91, 119)):
        pair.assert_same([twin.spans(first, last)])
    pair.assert_same([twin.spans(119, 120, nodes=9)])


def test_positions_beyond_the_first_angles_are_rotated_as_the_model_does(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = CompiledDecoder(pair.compiled.model, pair.compiled.cache)
    few._hold_angles(2)
    monkeypatch.setattr(pair.compiled, "_compiled", few)
    twin = Twin(pair, random_tokens(np.random.default_rng(3), 80))
    for first in range(0, 80, 16):
        pair.assert_same([twin.spans(first, first + 16)])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_another_kind_keep_their_modules(family: str, kind: Kind) -> None:
    assert (of_kind(build(family), kind)._compiled is not None) == (family == "llama")


def test_a_family_of_the_same_kind_is_compiled_too(kind: Kind) -> None:
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
    pair = Pair(model, plain, kind)
    twin = Twin(pair, random_tokens(np.random.default_rng(4), 30))
    pair.assert_same([twin.spans(0, 20)])
    pair.assert_same([twin.spans(20, 30, nodes=6)])


def test_what_only_looks_usual_is_found_out_by_its_logits(kind: Kind) -> None:
    model = granite(residual_multiplier=0.3, attention_multiplier=0.5)
    probed = probe(model)
    odd = of_kind(model, kind)
    assert is_usual(odd.model, probed)
    assert odd._compiled is None


@pytest.mark.parametrize(
    "odd",
    [
        {"value_dim": 4},
        {"value_heads": 1},
        {"key_dim": 16, "value_dim": 16},
        {"key_dim": 12, "value_dim": 12},
    ],
)
def test_layers_of_other_sizes_are_not_usual(odd: dict[str, int], kind: Kind) -> None:
    facts = probe(build("llama"))
    model = of_kind(build("llama"), kind).model
    assert is_usual(model, facts)
    assert not is_usual(
        model, [replace(facts[0], shape=replace(facts[0].shape, **odd)), *facts[1:]]
    )


def test_matrices_of_other_sizes_are_not_usual() -> None:
    facts = probe(build("llama"))
    model = of_kind(build("llama"), "integers").model
    first = model.get_decoder().layers[0].mlp
    first.gate_proj, first.up_proj = (Int8Linear(nn.Linear(48, 32, bias=False)) for _ in range(2))
    first.down_proj = Int8Linear(nn.Linear(32, 48, bias=False))
    assert not is_usual(model, facts)


def test_rotary_positions_of_a_part_of_a_head_are_left_to_the_modules(kind: Kind) -> None:
    model = of_kind(build("llama"), kind)
    rotary = model.model.get_decoder().rotary_emb
    rotary.inv_freq = rotary.inv_freq[:2]
    with pytest.raises(TypeError, match="rotary"):
        CompiledDecoder(model.model, model.cache)


def test_matrices_of_two_kinds_are_not_usual() -> None:
    facts = probe(build("llama"))
    model = of_kind(build("llama"), "floats").model
    assert is_usual(model, facts)
    last = model.get_decoder().layers[1].mlp
    last.up_proj = Int8Linear(nn.Linear(48, last.up_proj.out_features, bias=False))
    assert not is_usual(model, facts)


def test_matrices_that_are_not_packed_are_left_to_the_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_linear, "FEWEST_PACKED_BYTES", 1 << 30)
    assert of_kind(build("llama"), "floats")._compiled is None


def test_on_several_threads_a_small_model_is_compiled_and_a_large_one_is_not(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    assert of_kind(build("llama"), kind)._compiled is not None
    monkeypatch.setattr(packed_linear, "MOST_BYTES_ALONE", 0)
    assert of_kind(build("llama"), kind)._compiled is None


def test_a_row_alone_has_the_logits_that_it_has_in_company(kind: Kind) -> None:
    """Whatever else is in the step: else a text would hang on what it is batched with."""
    model = of_kind(build("llama"), kind)
    tokens = random_tokens(np.random.default_rng(5), 30)
    slots = [model.cache.lease(64) for _ in range(3)]

    def spans(length: int) -> list[Span]:
        return [
            chain_span(
                tokens[place : place + length],
                start=0,
                offset=model.cache.offset(slot),
                num_logits=length,
            )
            for place, slot in enumerate(slots)
        ]

    alone = [model.forward([span]) for span in spans(9)]
    assert torch.equal(torch.cat(alone), model.forward(spans(9)))


def test_broken_weights_give_no_numbers(pair: Pair) -> None:
    model = pair.compiled
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
