"""Compiled attention is attention, whatever its sizes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch

from specedge.engine.attention_kernel import Heads, attention_of

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Attended:
    """One span's rows, over planes of K and V in which its keys begin at ``FIRST``."""

    queries: Floats
    keys: Floats
    values: Floats
    bias: Floats | None

    def compiled(self, heads: Heads, num_rows: int | None = None) -> Floats:
        rows = len(self.queries) if num_rows is None else num_rows
        num_keys = self.keys.shape[1] - FIRST
        spans = np.array([[0, rows, FIRST, FIRST + num_keys, -1 if self.bias is None else 0]])
        bias = np.zeros(1, np.float32) if self.bias is None else self.bias
        scores = np.empty((rows * heads.sharers, num_keys), np.float32)
        powers, out = np.empty(num_keys, np.float32), np.empty_like(self.queries[:rows])
        places = [each.ctypes.data for each in (self.queries, self.keys, self.values)]
        scratch = [each.ctypes.data for each in (bias, scores, powers, out)]
        attention_of(heads)(*places, self.keys.shape[1], spans.ctypes.data, 1, *scratch)
        return out


FIRST = 3


def some(heads: Heads, num_rows: int, num_keys: int, *, has_bias: bool = False) -> Attended:
    rng = np.random.default_rng(num_keys)
    plane = heads.groups, FIRST + num_keys, heads.dim
    bias = np.where(rng.random((num_rows, num_keys)) < 0.3, -1e30, 0.0).astype(np.float32)
    bias[:, 0] = 0.0
    return Attended(
        rng.standard_normal((num_rows, heads.width)).astype(np.float32),
        rng.standard_normal(plane).astype(np.float32),
        rng.standard_normal(plane).astype(np.float32),
        bias if has_bias else None,
    )


def plain(heads: Heads, attended: Attended) -> torch.Tensor:
    """By torch, in float64."""
    rows = len(attended.queries)
    queries = torch.from_numpy(attended.queries).double().view(rows, heads.heads, heads.dim)
    keys, values = (
        torch.from_numpy(plane[:, FIRST:]).double().repeat_interleave(heads.sharers, 0)
        for plane in (attended.keys, attended.values)
    )
    scores = queries.transpose(0, 1) @ keys.transpose(1, 2) * heads.dim**-0.5
    if attended.bias is not None:
        scores = scores + torch.from_numpy(attended.bias).double()
    mixed = torch.softmax(scores, -1) @ values
    return mixed.transpose(0, 1).reshape(rows, heads.width)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_keys", [1, 2, 3, 4, 5, 7, 63, 64, 65, 67, 130, 700])
@pytest.mark.parametrize(
    "heads", [Heads(3, 1, 64), Heads(4, 4, 8), Heads(6, 2, 80), Heads(2, 1, 256)], ids=str
)
def test_rows_are_mixed_by_their_softmax(heads: Heads, num_keys: int, has_bias: bool) -> None:
    attended = some(heads, 5, num_keys, has_bias=has_bias)
    wanted = plain(heads, attended)
    got = torch.from_numpy(attended.compiled(heads)).double()
    assert (got - wanted).abs().max() < 2e-6 * max(1.0, float(wanted.abs().max()))


def test_a_row_is_mixed_the_same_alone_and_in_company() -> None:
    heads = Heads(9, 3, 64)
    attended = some(heads, 7, 201)
    everyone = attended.compiled(heads)
    for num_rows in (1, 2, 3, 6):
        assert np.array_equal(attended.compiled(heads, num_rows), everyone[:num_rows])
