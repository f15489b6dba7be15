"""On a device that is not the CPU the engine computes what it computes there, with nothing left
behind on the host, and waits for the device only where it has to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from specedge.engine import device_noise, sampling
from specedge.engine.fixed_step import FixedStep, PassShape
from specedge.engine.ports import Choosing, StepItem
from specedge.engine.sampling import choose_nodes
from specedge.engine.step_table import chain_span
from specedge.engine.torch_draft import TorchDrafter
from specedge.engine.torch_target import TorchTarget
from specedge.engine.tree_model import TreeModel
from specedge.params import SamplingParams
from specedge.tree.token_tree import IntArray, TokenTree
from tests.oracle.pretended_device import ELSEWHERE, moved, pretending
from tests.oracle.random_trees import random_tree
from tests.oracle.test_device_sampling import PARAMS, a_case, rows_for
from tests.oracle.tiny_models import FAMILIES, KV_BYTES, build, loaded, random_tokens

# Its experts are counted by an operation that a CPU has not.
SERVED = [family for family in FAMILIES if family != "gpt_oss"]
DRAFTING = SamplingParams(
    temperature=0.9, top_k=20, top_p=0.9, min_p=0.01, seed=5, logit_bias=((4, 1.0),)
)


def verified(model: PreTrainedModel) -> list[IntArray]:
    """Choices along a session: a prompt in two pieces, then trees, rows moved and copied."""
    target = TorchTarget(loaded(model), num_slots=2, kv_bytes=KV_BYTES)
    rng = np.random.default_rng(1)
    text = random_tokens(rng, 210)
    slot = target.lease(20)  # it has to grow
    target.step([StepItem(slot, 0, text[:50], None, None)])
    target.step([StepItem(slot, 50, text[50:209], None, None)])
    found = []
    for temperature in (0.0, 0.8):
        tree = random_tree(rng, int(text[-1]), 9)
        params = SamplingParams(temperature=temperature, top_p=0.9, seed=3)
        choosing = Choosing(params, text, 100, frozenset({2}))
        (choices,) = target.step([StepItem(slot, 209, text[209:], tree, choosing)])
        assert choices is not None
        found.append(choices.choice)
    target.keep(slot, 210, np.array([2, 3], dtype=np.int32))
    target.copy_rows(slot, target.lease(5), 100)
    return found


def drafted(model: PreTrainedModel) -> list[IntArray]:
    """Children of a root and of two of them, greedy and coupled, of a text that repeats itself."""
    drafter = TorchDrafter(
        loaded(model),
        kv_bytes=KV_BYTES,
        num_slots=2,
        num_children=4,
        coupled=True,
        recalls=True,
    )
    text = np.tile(random_tokens(np.random.default_rng(2), 12), 3)
    found = []
    for params in (SamplingParams(), DRAFTING):
        session = drafter.open(text, params)
        tree = TokenTree.root_only(int(text[-1]))
        found.append(session.expand(tree, np.array([0], dtype=np.int32)).token)
        grown = [int(text[-1]), *found[-1][0].tolist()]
        tree = TokenTree.from_parents(np.array(grown, dtype=np.int32), [-1, 0, 0, 0, 0])
        found.append(session.expand(tree, np.array([1, 3], dtype=np.int32)).token)
    return found


@pytest.mark.parametrize("family", SERVED)
def test_a_target_elsewhere_chooses_as_on_the_cpu(family: str) -> None:
    wanted = verified(build(family))
    with pretending():
        ours = verified(moved(build(family)))

    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_drafter_elsewhere_proposes_as_on_the_cpu() -> None:
    wanted = drafted(build("llama"))
    with pretending():
        ours = drafted(moved(build("llama")))

    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("family", SERVED)
def test_a_fixed_step_is_computed_without_waiting(family: str) -> None:
    """What a capture asks for."""
    with pretending() as device:
        tree_model = TreeModel(moved(build(family)), num_slots=1, kv_bytes=KV_BYTES)
        offset = tree_model.cache.offset(tree_model.cache.lease(12))
        tokens = random_tokens(np.random.default_rng(3), 12)
        spans = [chain_span(tokens, start=0, offset=offset, num_logits=2)]
        shape = PassShape.holding(spans)
        assert shape is not None
        step = FixedStep(
            shape,
            spare_row=tree_model.cache.spare_row,
            dtype=tree_model.dtype,
            device=tree_model.device,
        )
        step.hold(spans)
        tree_model._forward(step)  # makes what is made but once
        step.hold(spans)
        device.waits = 0
        logits = tree_model._forward(step)

        assert logits.device == ELSEWHERE
        assert device.waits == 0


def test_sampled_sessions_of_a_step_wait_for_it_together() -> None:
    names = ["temperature", "penalties", "hot", "min_p"] * 2
    rng = np.random.default_rng(4)
    cases = [a_case(PARAMS[name], seed=1) for name in names]
    logits = [rows_for(tree, rng, with_ties=False) for tree, _ in cases]
    with pretending() as device:
        rows = torch.from_numpy(np.concatenate(logits)).to(ELSEWHERE)
        device.waits = 0
        choose_nodes(rows, cases)

        # Those with penalties bring a history.
        assert device.waits <= 1 + names.count("penalties")


@pytest.mark.parametrize("computes_in_float64", [True, False])
@pytest.mark.parametrize("name", PARAMS)
def test_choices_elsewhere_are_those_on_the_cpu(
    name: str, computes_in_float64: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, choosing = a_case(PARAMS[name], seed=1)
    asked = [(tree, replace(choosing, num_logprobs=3))]
    logits = rows_for(tree, np.random.default_rng(2), with_ties=False)
    (wanted,) = choose_nodes(torch.from_numpy(logits.copy()), asked)
    for module in (device_noise, sampling):
        monkeypatch.setattr(module, "has_float64", lambda _: computes_in_float64)
    with pretending():
        (ours,) = choose_nodes(torch.from_numpy(logits.copy()).to(ELSEWHERE), asked)

    np.testing.assert_array_equal(ours.choice, wanted.choice)
    assert ours.logprobs is not None
    assert wanted.logprobs is not None
    np.testing.assert_array_equal(ours.logprobs.token, wanted.logprobs.token)
