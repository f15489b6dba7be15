"""Products of a few rows with a large matrix on one CPU thread: each weight is read once.

One row times a matrix is bound by the memory that the weights stream from. Two to eight rows could
be had for little more, and in speculative decoding they are all there is; torch takes two to three
times as long for them, since it repacks the weights for its matrix kernel at every call. Here a row
of weights meets all rows of the input while it is in a register, as in a batched matrix-vector
product. Weights are float32, or int8 that the caller scales. Compiled by numba, in about a second
for each kind of weights.

Sums may be reordered, so that they vectorise; NaN and infinity stay what they are.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import from_dtype, njit

FloatArray = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32] | npt.NDArray[np.int8]

# Beyond, arithmetic outweighs memory and torch's blocked kernels are quicker.
MOST_ROWS: Final = 16

_compiled: Final[Any] = njit(
    fastmath={"reassoc", "contract"},
    error_model="numpy",
    nogil=True,
)


def compile_for(weight: Weights) -> None:
    """Compile for weights of this kind now, rather than when the first product needs it."""
    for kernel in set(_KERNELS.values()):
        kernel.compile(f"void({from_dtype(weight.dtype)}[:,::1], float32[:,::1], float32[:,::1])")


def product(x: FloatArray, weight: Weights, out: FloatArray) -> None:
    """out (m, n) = x (m, k) · weight (n, k)ᵀ, all C-contiguous; 0 < m, best up to MOST_ROWS."""
    for start in range(0, len(x), 8):
        rows = min(8, len(x) - start)
        _KERNELS[rows](weight, x[start : start + rows], out[start : start + rows])


# In the kernels, rows that a narrower input lacks repeat its last one: the same sum twice, and no
# copy. They are written out because a loop over rows would keep the sums in memory.


@_compiled
def _one_row(weight: Weights, x: FloatArray, out: FloatArray) -> None:
    for n in range(weight.shape[0]):
        row = weight[n]
        s0 = np.float32(0)
        for k in range(row.shape[0]):
            s0 += np.float32(row[k]) * x[0, k]
        out[0, n] = s0


@_compiled
def _two_rows(weight: Weights, x: FloatArray, out: FloatArray) -> None:
    x0, x1 = x[0], x[1]
    for n in range(weight.shape[0]):
        row = weight[n]
        s0 = s1 = np.float32(0)
        for k in range(row.shape[0]):
            w = np.float32(row[k])
            s0 += w * x0[k]
            s1 += w * x1[k]
        out[0, n] = s0
        out[1, n] = s1


@_compiled
def _up_to_five_rows(weight: Weights, x: FloatArray, out: FloatArray) -> None:
    last = x.shape[0] - 1
    m3, m4 = min(3, last), min(4, last)
    x0, x1, x2, x3, x4 = x[0], x[1], x[2], x[m3], x[m4]
    for n in range(weight.shape[0]):
        row = weight[n]
        s0 = s1 = s2 = s3 = s4 = np.float32(0)
        for k in range(row.shape[0]):
            w = np.float32(row[k])
            s0 += w * x0[k]
            s1 += w * x1[k]
            s2 += w * x2[k]
            s3 += w * x3[k]
            s4 += w * x4[k]
        out[0, n] = s0
        out[1, n] = s1
        out[2, n] = s2
        out[m3, n] = s3
        out[m4, n] = s4


@_compiled
def _up_to_eight_rows(weight: Weights, x: FloatArray, out: FloatArray) -> None:
    last = x.shape[0] - 1
    m6, m7 = min(6, last), min(7, last)
    x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[m6], x[m7]
    for n in range(weight.shape[0]):
        row = weight[n]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
        for k in range(row.shape[0]):
            w = np.float32(row[k])
            s0 += w * x0[k]
            s1 += w * x1[k]
            s2 += w * x2[k]
            s3 += w * x3[k]
            s4 += w * x4[k]
            s5 += w * x5[k]
            s6 += w * x6[k]
            s7 += w * x7[k]
        out[0, n] = s0
        out[1, n] = s1
        out[2, n] = s2
        out[3, n] = s3
        out[4, n] = s4
        out[5, n] = s5
        out[m6, n] = s6
        out[m7, n] = s7


_KERNELS: Final = {
    1: _one_row,
    2: _two_rows,
    3: _up_to_five_rows,
    4: _up_to_five_rows,
    5: _up_to_five_rows,
    6: _up_to_eight_rows,
    7: _up_to_eight_rows,
    8: _up_to_eight_rows,
}
