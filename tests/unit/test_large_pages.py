"""Arrays on large pages are copies, apart from one another, whatever their sizes."""

import itertools
import mmap
import threading

import numpy as np
import pytest

from specedge.engine import large_pages
from specedge.engine.large_pages import settled

SIZES = (1, 63, 64, 65, 5_000, 3 << 20, 1, 70 << 20, 7)


def arrays(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in SIZES]


def test_settled_arrays_are_copies_that_share_nothing_and_begin_at_a_cache_line() -> None:
    originals = arrays(1)
    copies = [settled(one) for one in originals]
    for original, copy in zip(originals, copies, strict=True):
        assert np.array_equal(original, copy)
        assert copy.ctypes.data % 64 == 0
    for copy in copies:
        copy[:] = 0
    assert all(original.any() for original in originals if len(original) > 64)
    bounds = sorted((one.ctypes.data, one.ctypes.data + len(one)) for one in copies)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(bounds))


def test_threads_that_settle_at_once_get_arrays_of_their_own() -> None:
    found: dict[int, list[np.ndarray]] = {}

    def settle(seed: int) -> None:
        found[seed] = [settled(one) for one in arrays(seed)]

    threads = [threading.Thread(target=settle, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, copies in found.items():
        assert all(np.array_equal(*pair) for pair in zip(arrays(seed), copies, strict=True))


def test_a_system_without_large_pages_has_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    arena = large_pages._Arena()
    assert not arena.piece(5_000).any()
