"""Layers with packed weights compute what torch's own do, for any number of rows."""

import pytest
import torch
from torch import nn

from specedge.engine import packed_linear
from specedge.engine.packed_linear import MOST_ROWS, PackedLinear, pack_if_small
from tests.oracle.tiny_models import build


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, MOST_ROWS, MOST_ROWS + 1, 40])
def test_packed_weights_give_the_plain_product(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(48, 80, bias=bias)
    packed = PackedLinear(plain)
    with torch.inference_mode():
        for x in (torch.randn(1, rows, 48), torch.randn(rows, 48)):
            wanted = plain(x)
            got = packed(x)
            assert got.shape == wanted.shape
            assert torch.allclose(got, wanted, atol=1e-5)


def test_a_whole_model_is_packed_and_says_the_same() -> None:
    model = build("llama")
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        before = model(input_ids=ids, use_cache=False).logits
        assert pack_if_small(model) == 7 * model.config.num_hidden_layers + 1
        after = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(before, after, atol=1e-4)
    assert pack_if_small(model) == 0, "packed twice"


def test_what_is_too_large_or_not_fp32_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pack_if_small(build("llama").to(torch.bfloat16)) == 0
    monkeypatch.setattr(packed_linear, "MOST_BYTES", 1000)
    assert pack_if_small(build("llama")) == 0
