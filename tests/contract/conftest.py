"""The networks that the Link port is held on, and the loops: the link's tests run on uvloop, as
services do; those that hold the port run on asyncio too."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from specedge.credentials.broker_config import USERS_FILE, BrokerUser, users_config
from specedge.credentials.nkey import UserKey
from specedge.credentials.roles import Permissions
from specedge.service.runtime import Tasks
from tests.contract.link_networks import MemoryNetwork, NatsNetwork, Network
from tests.generated_broker import generated_broker, make_credentials

LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

# By how a file's name begins.
_LOOPS: Mapping[str, LoopFactories] = {
    "test_link_contract": {
        "uvloop": uvloop.new_event_loop,
        "asyncio": asyncio.new_event_loop,
    },
    "test_nats_": {"uvloop": uvloop.new_event_loop},
    "test_websocket_link": {"uvloop": uvloop.new_event_loop},
}
_numbers = itertools.count()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> LoopFactories:
    for beginning, loops in _LOOPS.items():
        if item.path.stem.startswith(beginning):
            return loops
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def subject() -> str:
    """A subject that no other test uses."""
    return f"test.{next(_numbers)}"


@pytest.fixture(scope="session")
def websocket_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """How to reach a broker over WebSocket as somebody who may say and hear everything."""
    root = tmp_path_factory.mktemp("credentials")
    make_credentials(root, websocket="127.0.0.1:-1")
    key = UserKey.create()
    anything = BrokerUser(key.public_key, Permissions((">",), (">",)))
    (root / "broker" / USERS_FILE).write_text(users_config((anything,)))
    with generated_broker(root) as broker:
        yield {
            "servers": (broker.websocket_url,),
            "seed": key.seed,
            "tls_ca_file": root / "authority" / "ca.pem",
        }


@pytest.fixture(params=["memory", "nats", "websocket"])
async def network(request: pytest.FixtureRequest, tasks: Tasks) -> AsyncIterator[Network]:
    """A network that stays up."""
    made: Network = MemoryNetwork()
    if request.param == "nats":
        made = NatsNetwork(request.getfixturevalue("nats_server"), tasks)
    if request.param == "websocket":
        made = NatsNetwork("", tasks, **request.getfixturevalue("websocket_settings"))
    yield made
    await made.close()


@pytest.fixture(params=["memory", "nats"])
async def frail_network(
    request: pytest.FixtureRequest, tasks: Tasks, tmp_path: Path, nobodys_port: int
) -> AsyncIterator[Network]:
    """A network that a test may take down and bring back: nobody takes its port meanwhile."""
    made: Network = MemoryNetwork()
    if request.param == "nats":
        made = await NatsNetwork.with_own_broker(tmp_path / "broker", tasks, nobodys_port)
    yield made
    await made.close()
