"""The built-in model, for tests marked ``real_model``: fetched into the user's cache once. Compute
threads, and layers that are packed however small they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from specedge.engine import packed_linear
from specedge.engine.loading import DEFAULT_MODEL, resolve_model

CACHE_DIR = Path("~/.cache/specedge")


@pytest.fixture(scope="session")
def real_model_folder() -> Path:
    folder = resolve_model(DEFAULT_MODEL, CACHE_DIR)
    assert isinstance(folder, Path)
    return folder


@contextmanager
def computing_on(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    with computing_on(1):
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    with computing_on(2):
        yield


@pytest.fixture
def packed_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "FEWEST_PACKED_BYTES", 0)
