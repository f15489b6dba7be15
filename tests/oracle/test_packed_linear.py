"""Layers made quick for a few rows compute what torch's own do, for any number of rows."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from specedge.engine import (
    divided_products,
    packed_linear,
    packed_weights,
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
from tests.oracle.packed_matrices import quantised
from tests.oracle.tiny_models import build


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
