"""Weights are held in few bits only where these hold them exactly, and have the same products."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import pytest
import torch
from torch import nn

from specedge.engine import weight_forms
from specedge.engine.packed_linear import PanelLinear, quicken
from specedge.engine.weight_forms import WeightForm
from tests.oracle.packed_matrices import form_of, of_few_bytes, product_of_whole, quantised
from tests.oracle.tiny_models import build


@pytest.mark.parametrize("kept", [2, 3, 4])
def test_a_packed_layer_still_tells_its_weights(
    kept: int, one_thread: None, packed_whatever_the_size: None
) -> None:
    weight = of_few_bytes(torch.randn(83, 50), kept)
    assert torch.equal(PanelLinear(weight).weight, weight)


@pytest.mark.parametrize("kept", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 12, 100])
def test_weights_kept_in_fewer_bytes_have_the_same_products_to_the_last_bit(
    rows: int, kept: int, one_thread: None, packed_whatever_the_size: None
) -> None:
    torch.manual_seed(rows)
    weight = of_few_bytes(torch.randn(83, 50), kept)
    layer, x = PanelLinear(weight), torch.randn(rows, 50)

    assert form_of(layer) == kept
    assert torch.equal(layer(x), product_of_whole(weight, x))


@pytest.mark.parametrize("odd", [1e-3, -0.1, 1e-42])
def test_one_weight_that_needs_all_its_bytes_keeps_them(
    odd: float, one_thread: None, packed_whatever_the_size: None
) -> None:
    weight = of_few_bytes(torch.randn(83, 50), 2)
    weight[82, 49] = odd

    assert torch.equal(PanelLinear(weight).weight, weight)


@pytest.mark.parametrize("outputs", [32, 83])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_weights_that_were_quantised_in_blocks_are_held_so_and_have_the_same_products(
    kind: str, outputs: int, one_thread: None, packed_whatever_the_size: None
) -> None:
    weight = quantised(outputs, 96, kind)
    layer = PanelLinear(weight)
    of_4_bits, of_8_bits = WeightForm.BLOCKS_OF_4_BITS, WeightForm.BLOCKS_OF_8_BITS

    assert form_of(layer) == (of_4_bits if kind.startswith("Q4") else of_8_bits)
    assert torch.equal(layer.weight, weight)
    for rows in (*range(1, 20), 100):
        x = torch.randn(rows, 96)
        assert torch.equal(layer(x), product_of_whole(weight, x))


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_weights_are_held_whole_where_that_is_asked_for_and_have_the_same_products(
    kind: str, one_thread: None, packed_whatever_the_size: None
) -> None:
    weight, x = quantised(83, 96, kind), torch.randn(5, 96)
    layer = PanelLinear(weight, whole=True)
    assert form_of(layer) == WeightForm.WHOLE
    assert torch.equal(layer(x), PanelLinear(weight)(x))


def test_a_model_is_told_whether_its_weights_are_held_whole(one_thread: None) -> None:
    for whole in (False, True):
        model = build("llama").to(torch.bfloat16).float()
        model.lm_head.weight = nn.Parameter(torch.randn(1024, 64).bfloat16().float())
        quicken(model, whole=whole)
        forms = {form_of(one) for one in model.modules() if getattr(one, "addresses", None)}
        assert forms == {WeightForm.WHOLE if whole else WeightForm.UPPER_TWO_BYTES}


@pytest.mark.parametrize("odd", [1e-3, -0.1, 1e-42, 1e30, torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_one_weight_between_the_steps_of_its_block_keeps_a_matrix_out_of_blocks(
    kind: str, odd: float, one_thread: None, packed_whatever_the_size: None
) -> None:
    weight = quantised(83, 96, kind)
    weight[82, 95] = odd
    layer = PanelLinear(weight)

    assert form_of(layer) <= WeightForm.WHOLE
    assert torch.equal(layer.weight.view(torch.int32), weight.view(torch.int32))


@pytest.mark.parametrize("shape", [(16, 96), (83, 80), (1, 32)])
def test_what_cannot_be_cut_into_blocks_is_held_otherwise(
    shape: tuple[int, int], one_thread: None, packed_whatever_the_size: None
) -> None:
    weight = quantised(shape[0], 96, "Q4_1")[:, : shape[1]].contiguous()
    layer, x = PanelLinear(weight), torch.randn(3, shape[1])

    assert form_of(layer) <= WeightForm.WHOLE
    assert torch.equal(layer(x), product_of_whole(weight, x))


def test_a_matrix_of_one_number_is_held_in_blocks_if_a_scale_can_hold_it(
    one_thread: None, packed_whatever_the_size: None
) -> None:
    for value, in_blocks in ((0.0, True), (0.25, True), (-3.0, True), (0.1, False)):
        layer = PanelLinear(torch.full((32, 64), value))
        assert (form_of(layer) == WeightForm.BLOCKS_OF_4_BITS) == in_blocks
        assert torch.equal(layer.weight, torch.full((32, 64), value))


def test_a_processor_that_cannot_widen_halves_has_no_blocks(
    one_thread: None, packed_whatever_the_size: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_forms, "widens_halves", lambda: False)
    assert form_of(PanelLinear(quantised(32, 96, "Q4_1"))) <= WeightForm.WHOLE


def test_what_was_stored_in_half_the_bytes_is_kept_so(
    one_thread: None, packed_whatever_the_size: None
) -> None:
    layer = PanelLinear(torch.randn(83, 50).bfloat16().float())
    assert form_of(layer) == WeightForm.UPPER_TWO_BYTES


PRODUCT_ELSEWHERE = """
import hashlib, sys
import torch
from specedge.engine import packed_linear
from specedge.engine.weight_readers import LANES
from tests.oracle.packed_matrices import form_of, quantised

torch.set_num_threads(1)
packed_linear.FEWEST_PACKED_BYTES = 0
digest = hashlib.sha256()
for kind in ("Q4_1", "Q8_0"):
    layer = packed_linear.PanelLinear(quantised(83, 96, kind))
    for rows in (1, 3, 6, 7, 100):
        generator = torch.Generator().manual_seed(rows)
        digest.update(layer(torch.randn(rows, 96, generator=generator)).contiguous().numpy())
print(LANES, int(form_of(layer)), digest.hexdigest())
"""


def product_elsewhere(**settings: str) -> list[str]:
    """Vectors' lanes, the last matrix' form, and a digest of products, as numba compiles them for
    the processor that ``settings`` tell it of."""
    ran = subprocess.run(
        [sys.executable, "-c", PRODUCT_ELSEWHERE],
        env={**os.environ, **settings},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


def test_a_processor_without_long_vectors_or_look_ups_has_the_same_products() -> None:
    features = dict(llvmlite.binding.get_host_cpu_features())
    if not (features.get("avx2") and features.get("f16c")):
        pytest.skip("needs AVX2")
    kept = {name: has and not name.startswith(("avx512", "amx")) for name, has in features.items()}
    told = ",".join(f"{'+' if has else '-'}{name}" for name, has in kept.items())

    lanes, form, digest = product_elsewhere(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=told)

    assert (lanes, int(form)) == ("8", WeightForm.BLOCKS_OF_8_BITS)
    assert digest == product_elsewhere()[2]


def test_a_processor_that_numba_is_told_nothing_of_has_no_blocks() -> None:
    lanes, form, _ = product_elsewhere(NUMBA_CPU_NAME="generic")
    assert (lanes, int(form) <= WeightForm.WHOLE) == ("8", True)
