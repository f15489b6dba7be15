"""The built-in model, for tests marked ``real_model``: fetched into the user's cache once."""

from pathlib import Path

import pytest

from specedge.engine.loading import DEFAULT_MODEL, resolve_model

CACHE_DIR = Path("~/.cache/specedge")


@pytest.fixture(scope="session")
def real_model_folder() -> Path:
    folder = resolve_model(DEFAULT_MODEL, CACHE_DIR)
    assert isinstance(folder, Path)
    return folder
