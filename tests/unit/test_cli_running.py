"""How a system that cannot go on ends: with the one sentence that says why."""

import asyncio
from typing import Any, cast

import pytest

from specedge.cli import running
from specedge.cli.stack import StackOptions
from specedge.cli.waiting import ProgressDisplay
from specedge.link.broker import Broker, BrokerFailed
from specedge.service.runtime import Tasks


class LostBroker:
    """Has ended, and cannot be started again."""

    pid = None

    async def start(self) -> None:
        raise BrokerFailed("its port is taken")


def test_a_broker_that_cannot_be_started_again_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_: Any) -> None:
        async with Tasks() as tasks:
            broker = cast("Broker", LostBroker())
            tasks.start(running._keep_broker(broker, ProgressDisplay([])), name="broker")
            await asyncio.Event().wait()

    monkeypatch.setattr(running, "quiet_logs", lambda: None)  # would outlast this test
    monkeypatch.setattr(running, "_run", run)

    with pytest.raises(BrokerFailed, match="its port is taken"):
        running.run_with_stack(StackOptions(port=0), asyncio.sleep)  # type: ignore[arg-type]
