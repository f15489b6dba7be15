"""Layers made quick for a few rows compute what torch's own do, for any number of rows."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from specedge.engine import (
    divided_products,
    kept_bytes,
    packed_linear,
    packed_weights,
    panels,
    weight_forms,
)
from specedge.engine.int8_rounding import MOST
from specedge.engine.packed_linear import (
    MOST_BYTES_ALONE,
    ONEDNN_ROWS,
    Int8Linear,
    OneDnnLinear,
    PanelLinear,
    computes_in_int8,
    has_panels,
    quicken,
)
from specedge.engine.panel_layout import PANEL_OUTPUTS, num_panels
from specedge.engine.weight_forms import WeightForm
from tests.oracle.tiny_models import build


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def packed_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "FEWEST_PACKED_BYTES", 0)


def of_few_bytes(weight: Tensor, kept: int) -> Tensor:
    """Of each number the upper so many bytes, and a weight that needs the last of them."""
    unit = 1 << 8 * (4 - kept)
    bits = weight.view(torch.int32) & -unit
    bits[0, 0] |= unit
    return bits.view(torch.float32)


def form_of(layer: PanelLinear) -> WeightForm:
    assert layer.addresses is not None
    return WeightForm(layer.addresses[1])


def product_of_whole(weight: Tensor, x: Tensor) -> Tensor:
    """What panels of all bytes of the weights give."""
    (rows, inputs), outputs = x.shape, len(weight)
    whole = kept_bytes.packed(weight.numpy(), 4)
    out = torch.empty(rows, num_panels(outputs) * PANEL_OUTPUTS)
    sizes = rows, inputs, num_panels(outputs)
    multiply = panels.product(WeightForm.WHOLE)
    multiply(x.data_ptr(), whole.ctypes.data, out.data_ptr(), *sizes, 0, sizes[-1])
    return out[:, :outputs]


def quantised(outputs: int, inputs: int, kind: str) -> Tensor:
    """Weights as a checkpoint in GGML's blocks of that kind gives them."""
    generator = np.random.default_rng(1)
    shape = outputs, inputs // 32, 32
    scale = generator.uniform(1e-3, 2e-2, (*shape[:2], 1)).astype(np.float16).astype(np.float32)
    least = -generator.uniform(0.05, 0.2, (*shape[:2], 1)).astype(np.float16).astype(np.float32)
    if kind == "Q4_1":
        digits = generator.integers(0, 16, shape)
        digits[..., :2] = 0, 15  # whoever quantises uses all steps
        weight = digits * scale + least
    else:
        steps, extreme = {"Q4_0": (8, -8), "Q5_0": (16, -16), "Q8_0": (128, 127)}[kind]
        digits = generator.integers(1 - steps, steps, shape)
        digits[..., 0] = extreme
        weight = digits * (scale * generator.choice([1, -1] if steps < 128 else [1], scale.shape))
    return torch.from_numpy(weight.astype(np.float32).reshape(outputs, inputs))


def assert_same_products(layer: nn.Module, plain: nn.Linear, rows: int, atol: float = 1e-5) -> None:
    width = plain.in_features
    with torch.inference_mode():
        strided = torch.randn(rows, 2 * width)[:, ::2]
        for x in (torch.randn(1, rows, width), torch.randn(rows, width), strided):
            wanted = plain(x)
            got = layer(x)
            assert got.shape == wanted.shape
            assert torch.allclose(got, wanted, atol=atol)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [*range(1, 20), 40, 200])
def test_weights_in_panels_give_the_plain_product(
    rows: int, bias: bool, one_thread: None, packed_whatever_the_size: None
) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(50, 83, bias=bias)
    assert_same_products(PanelLinear(plain.weight, plain.bias), plain, rows)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, ONEDNN_ROWS.stop - 1, ONEDNN_ROWS.stop, 40])
def test_weights_packed_for_several_threads_give_the_plain_product(
    rows: int, bias: bool, two_threads: None
) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(48, 80, bias=bias)
    assert_same_products(OneDnnLinear(plain), plain, rows)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs", [1, 7, 50])
@pytest.mark.parametrize("rows", [*range(1, 9), 16, 200])
def test_rounded_weights_give_the_product_with_rounded_weights(
    rows: int, inputs: int, bias: bool, one_thread: None
) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(inputs, 83, bias=bias)
    exact = plain.weight.detach().clone()
    with torch.no_grad():
        plain.weight[3] = 0.0
    rounded = Int8Linear(plain)
    step = exact.abs().amax(dim=1, keepdim=True) / MOST
    with torch.no_grad():
        plain.weight.copy_(rounded.weight * rounded.scale[:, None])
    changed = (plain.weight - exact).abs()
    assert (changed[4:] <= 0.501 * step[4:]).all(), "no weight moves by more than half a step"
    assert_same_products(rounded, plain, rows, atol=1e-4)


def test_rounded_inputs_keep_what_stands_beside_an_outlier(one_thread: None) -> None:
    torch.manual_seed(1)
    plain = nn.Linear(576, 64, bias=False)
    layer = Int8Linear(plain)
    x = torch.randn(5, 576)
    x[:, 3] = 500.0
    exact = x @ (layer.weight * layer.scale[:, None]).T
    without = exact - 500.0 * (layer.weight * layer.scale[:, None])[:, 3]
    assert (layer(x) - exact).abs().max() < 0.05 * without.std()


@pytest.mark.parametrize("inputs", [1, 2, 576, 8192])
def test_the_largest_sum_there_can_be_is_no_overflow(inputs: int, one_thread: None) -> None:
    plain = nn.Linear(inputs, 16, bias=False)
    with torch.no_grad():
        plain.weight.fill_(1.0)
        plain.weight[1] = -1.0
    for sign in (1.0, -1.0):
        got = Int8Linear(plain)(torch.full((2, inputs), 3.0 * sign))
        assert torch.allclose(got[:, 0], torch.tensor(3.0 * sign * inputs), rtol=1e-3)
        assert torch.equal(got[:, 1], -got[:, 0])


def test_rows_of_zeros_have_products_of_zero(one_thread: None) -> None:
    assert not Int8Linear(nn.Linear(50, 83, bias=False))(torch.zeros(3, 50)).any()


def test_a_rounded_row_has_the_same_product_whatever_it_is_batched_with(one_thread: None) -> None:
    torch.manual_seed(1)
    layer = Int8Linear(nn.Linear(50, 83))
    x = torch.randn(120, 50)
    alone = torch.cat([layer(row[None]) for row in x])
    for rows in (2, 3, 5, 6, 7, 11, 13, 97, 120):
        assert torch.equal(layer(x[:rows]), alone[:rows])


def test_a_row_has_the_same_product_whatever_it_is_batched_with(
    one_thread: None, packed_whatever_the_size: None
) -> None:
    torch.manual_seed(1)
    layer = PanelLinear(torch.randn(83, 50))
    x = torch.randn(120, 50)
    alone = torch.cat([layer(row[None]) for row in x])
    for rows in (2, 3, 5, 6, 7, 11, 13, 97, 120):
        assert torch.equal(layer(x[:rows]), alone[:rows])


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


@pytest.mark.parametrize("is_rounded", [False, True])
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_a_prompts_product_is_the_same_divided_among_threads(
    kind: str, is_rounded: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nn.Linear(96, 16 * 7 + 3)
    with torch.no_grad():
        plain.weight.copy_(quantised(16 * 7 + 3, 96, kind))
    monkeypatch.setattr(packed_linear, "FEWEST_PACKED_BYTES", 0)
    layer = Int8Linear(plain) if is_rounded else PanelLinear(plain.weight, plain.bias)
    x = torch.randn(300, 96)
    whole = layer(x)

    parts: list[tuple[int, int]] = []
    monkeypatch.setattr(divided_products, "FEWEST_PRODUCTS", 1000)
    monkeypatch.setattr(packed_weights, "divided", watched(packed_weights.divided, parts))
    assert torch.equal(layer(x), whole)
    assert sorted(parts) == [(0, 4), (4, 8)]


def watched(divided: Callable[..., None], parts: list[tuple[int, int]]) -> Callable[..., None]:
    """``divided``, which notes what it asks for."""

    def watching(multiply: Callable[[int, int], None], *sizes: int) -> None:
        def noting(first: int, last: int) -> None:
            parts.append((first, last))
            multiply(first, last)

        divided(noting, *sizes)

    return watching


def test_where_products_cannot_be_divided_several_threads_have_no_panels(
    two_threads: None, packed_whatever_the_size: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divided_products, "_openmp", lambda: None)
    model = build("llama")
    quicken(model)
    assert not has_panels(model)
    assert not computes_in_int8("cpu", 1000)


def test_a_model_is_rounded_only_where_it_may_be(one_thread: None) -> None:
    exact, drafter = build("llama"), build("llama")
    quicken(exact)
    quicken(drafter, may_round=True)
    assert not any(isinstance(layer, Int8Linear) for layer in exact.modules())
    assert not any(isinstance(layer, nn.Linear) for layer in drafter.modules())


def test_drafters_are_rounded_on_one_cpu_thread_and_small_ones_on_several(
    one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert computes_in_int8("cpu", None), "whatever else the processor computes in"
    assert not computes_in_int8("cuda", 1000)

    torch.set_num_threads(2)
    assert computes_in_int8("cpu", MOST_BYTES_ALONE)
    assert not computes_in_int8("cpu", MOST_BYTES_ALONE + 1)
    assert not computes_in_int8("cpu", None)


@pytest.mark.parametrize("is_rounded", [False, True])
def test_what_is_not_a_number_stays_so(
    is_rounded: bool, one_thread: None, packed_whatever_the_size: None
) -> None:
    plain = nn.Linear(40, 6, bias=False)
    layer = Int8Linear(plain) if is_rounded else PanelLinear(plain.weight)
    x = torch.randn(3, 40)
    x[0, 3], x[1, 39] = torch.nan, torch.inf

    got = layer(x)

    assert got[0].isnan().all()
    assert not got[1].isfinite().any()
    assert got[2].isfinite().all()


@pytest.mark.parametrize("most_bytes_alone", [0, 1 << 30])
@pytest.mark.parametrize("threads", ["one_thread", "two_threads"])
def test_a_whole_model_is_made_quick_and_says_the_same(
    threads: str,
    most_bytes_alone: int,
    request: pytest.FixtureRequest,
    packed_whatever_the_size: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request.getfixturevalue(threads)
    monkeypatch.setattr(packed_linear, "MOST_BYTES_ALONE", most_bytes_alone)
    model = build("llama")
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        before = model(input_ids=ids, use_cache=False).logits
        assert quicken(model) == 7 * model.config.num_hidden_layers + 1
        after = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(before, after, atol=1e-4)
    assert quicken(model) == 0, "replaced twice"
    assert has_panels(model) == (threads == "one_thread" or most_bytes_alone > 0)


def test_what_is_not_fp32_stays_as_it_is(one_thread: None) -> None:
    assert quicken(build("llama").to(torch.bfloat16)) == 0


def test_on_several_threads_a_large_model_is_not_held_twice(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, "MOST_ONEDNN_BYTES", 1000)
    monkeypatch.setattr(packed_linear, "MOST_BYTES_ALONE", 0)
    assert quicken(build("llama")) == 0


PRODUCT_ELSEWHERE = """
import hashlib, sys
import torch
from specedge.engine import packed_linear
from specedge.engine.weight_readers import LANES
from tests.oracle.test_packed_linear import form_of, quantised

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
