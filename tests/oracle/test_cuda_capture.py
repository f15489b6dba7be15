"""What a capture leaves behind, on imitated streams and graphs that keep torch's rules for them."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from specedge.engine.captured_passes import CudaCapture


class Stream:
    """Notes what it was given to do, and for whom it waits, in one log of all streams."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self._log = log

    def wait_stream(self, other: "Stream") -> None:
        self._log.append(f"{self.name} waits for {other.name}")


class Cuda:
    """Streams, and pools that torch captures into only while a graph of theirs is there."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.main, self.side = Stream("main", self.log), Stream("side", self.log)
        self.current = self.main
        self.graphs: weakref.WeakSet[Any] = weakref.WeakSet()
        self.was_captured_into = False

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def graph(self) -> "Graph":
        return Graph(self)


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        if self._cuda.was_captured_into and not self._cuda.graphs:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        self._cuda.was_captured_into = True
        self._cuda.graphs.add(self)
        self._cuda.log.append("capture begins")

    def capture_end(self) -> None:
        self._cuda.log.append("capture ends")

    def replay(self) -> None:
        pass


@contextmanager
def _on_any_device(_: torch.device) -> Iterator[None]:
    yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    imitated: dict[str, Callable[..., Any]] = {
        "graph_pool_handle": object,
        "Stream": lambda _: cuda.side,
        "stream": cuda.stream,
        "current_stream": lambda: cuda.current,
        "device": _on_any_device,
        "CUDAGraph": cuda.graph,
        "empty_cache": lambda: cuda.log.append("unused memory is given back"),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda _: None,
    }
    for name, stands_in in imitated.items():
        monkeypatch.setattr(torch.cuda, name, stands_in)
    return cuda


@pytest.mark.parametrize("pass_number", [1, 2, 3])
@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_a_failed_capture_wrote_is_written_before_whatever_comes_next(
    cuda: Cuda, error: type[Exception], pass_number: int
) -> None:
    """It wrote keys and values of made-up tokens where those of the true ones go next."""
    passes = 0

    def compute() -> None:
        nonlocal passes
        passes += 1
        cuda.log.append(f"{cuda.current.name} writes")
        if passes == pass_number:
            raise error("now")

    with pytest.raises(error):
        CudaCapture(torch.device("cuda"))(compute)

    assert cuda.log[-1] == "main waits for side"
    assert cuda.current is cuda.main


def test_passes_are_captured_after_the_first_one_was_refused(cuda: Cuda) -> None:
    capture = CudaCapture(torch.device("cuda"))
    refused = capture(lambda: None)
    del refused
    gc.collect()

    capture(lambda: None)()


def test_memory_that_nobody_uses_is_there_for_a_capture(cuda: Cuda) -> None:
    """While one is under way torch takes it from nobody."""
    CudaCapture(torch.device("cuda"))(lambda: None)

    place = cuda.log.index("capture begins")
    assert cuda.log[place - 1] == "unused memory is given back"
