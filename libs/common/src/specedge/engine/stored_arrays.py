"""Arrays in an ``.npz``, whatever is wrong with the file told in one way. Imports no torch."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


def read_arrays(
    path: Path, names: Sequence[str] | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays called ``names``, or all. Raises OSError, and ValueError for a file that is broken
    or lacks one."""
    try:
        # Opened here: numpy leaves a broken file open.
        with path.open("rb") as file, np.load(file) as stored:
            return {name: stored[name] for name in (stored.files if names is None else names)}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
