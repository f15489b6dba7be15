"""What all packed matrices share: outputs side by side in a panel, input after input.

numpy only.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.float32]

PANEL_OUTPUTS: Final = 16


def num_panels(num_outputs: int) -> int:
    """Of a matrix with so many outputs."""
    return -(-num_outputs // PANEL_OUTPUTS)


def filled(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """(n, …) as (panels, PANEL_OUTPUTS, …); zeros fill the last panel."""
    n = len(array)
    whole = np.zeros((num_panels(n) * PANEL_OUTPUTS, *array.shape[1:]), array.dtype)
    whole[:n] = array
    return whole.reshape(-1, PANEL_OUTPUTS, *array.shape[1:])
