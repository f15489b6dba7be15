"""An edge that writes a known text, before a scripted cloud: for tests of its HTTP face."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.edge_world import EdgeWorld, edge_world
from tests.integration.edge_requests import TEXT


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EdgeWorld]:
    async with edge_world(tmp_path, adaptive=False) as made:
        made.recite(TEXT)
        yield made
