"""bf16 products held in fp32 equal the exact product, rounded once."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from specedge.engine.wide_linear import WideLinear, widen_if_slow


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_wide_layer_rounds_the_exact_product_once(has_bias: bool) -> None:
    torch.manual_seed(0)
    narrow = nn.Linear(96, 40, bias=has_bias).to(torch.bfloat16)
    x = torch.randn(7, 96).to(torch.bfloat16)

    ours = WideLinear(narrow)(x)

    exact = x.double() @ narrow.weight.double().T
    if has_bias:
        exact = exact + narrow.bias.double()
    assert ours.dtype == torch.bfloat16
    # One rounding to 8 bits, and the little that fp32 sums lose before it.
    torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-5)


def test_only_bf16_layers_on_a_cpu_without_bf16_arithmetic_are_widened() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).to(torch.bfloat16))

    widened = widen_if_slow(model)

    expected = 0 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else 1
    assert widened == expected
    assert type(model[0]) is nn.Linear
    assert (type(model[1]) is WideLinear) == bool(expected)


@pytest.mark.parametrize(("dtype", "widened"), [(torch.float32, 0), (torch.bfloat16, 1)])
def test_a_torch_without_onednn_widens_bf16_layers_and_leaves_others_alone(
    dtype: torch.dtype, widened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)

    assert widen_if_slow(nn.Sequential(nn.Linear(4, 4).to(dtype))) == widened


def test_a_widened_head_leaves_the_embedding_it_was_tied_to_alone() -> None:
    embedding = nn.Embedding(8, 4).to(torch.bfloat16)
    head = nn.Linear(4, 8, bias=False).to(torch.bfloat16)
    head.weight = embedding.weight

    wide = WideLinear(head)

    assert wide.weight.dtype == torch.float32
    assert embedding.weight.dtype == torch.bfloat16
    assert torch.equal(wide.weight, embedding.weight.float())
