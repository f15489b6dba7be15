"""The link's tests run on uvloop, as services do; those that hold the port run on asyncio too."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

_LOOPS: Mapping[str, LoopFactories] = {
    "test_link_contract": {
        "uvloop": uvloop.new_event_loop,
        "asyncio": asyncio.new_event_loop,
    },
    "test_nats_link_faults": {"uvloop": uvloop.new_event_loop},
    "test_websocket_link": {"uvloop": uvloop.new_event_loop},
}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> LoopFactories:
    return _LOOPS.get(item.path.stem, {"asyncio": asyncio.new_event_loop})
