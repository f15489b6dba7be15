"""What several unit tests have in common."""

from collections.abc import AsyncIterator

import pytest

from specedge.service.compute import ComputeThread


@pytest.fixture
async def compute() -> AsyncIterator[ComputeThread]:
    """A compute thread, closed afterwards."""
    thread = ComputeThread("test")
    yield thread
    await thread.close()
