"""Where a device's memory is not enough: what a failed pass leaves behind, and what is said of a
model that does not fit.

An error keeps the frames it came through, and these keep all tensors that had been computed by
then. Whoever holds the error, to tell of it, would hold that memory against the next attempt.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from specedge.errors import ModelUnusable


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """An OutOfMemoryError that passes through here keeps no tensor of what was computed within.
    Also a decorator."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)
        raise


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Raises ModelUnusable where there is no memory for ``what``, which a model cannot do
    without."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelUnusable(f"there is no memory for {what}: {error}") from error
