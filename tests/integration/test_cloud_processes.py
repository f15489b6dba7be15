"""The scheduler and the verifier as processes: settings, health, metrics, drain."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest

from specedge.link.broker import Broker
from tests.reserved_ports import ReservedPorts

pytestmark = pytest.mark.timeout(600)  # processes start slowly where others compute too


@dataclass
class Running:
    """A service's process, and where it serves HTTP."""

    process: asyncio.subprocess.Process
    url: str

    async def ready(self) -> dict[str, object]:
        """What /ready says, once it says yes."""
        async with httpx.AsyncClient(timeout=60) as client:
            while True:
                answer = await client.get(f"{self.url}/ready")
                if answer.status_code == 200:
                    return dict(answer.json())
                await asyncio.sleep(0.05)

    async def text(self, path: str) -> str:
        async with httpx.AsyncClient(timeout=60) as client:
            return (await client.get(f"{self.url}{path}")).text


@asynccontextmanager
async def running(module: str, *flags: str, cwd: Path) -> AsyncIterator[Running]:
    """``python -m module flags`` that listens; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--log-format", "json", *flags),
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    assert process.stderr is not None
    drained: asyncio.Task[None] | None = None
    try:
        while line := await process.stderr.readline():
            said = orjson.loads(line)
            if said["event"] == "http_listening":
                break
        else:
            raise AssertionError("it ended before it listened")
        drained = asyncio.ensure_future(_drain(process.stderr))
        yield Running(process, f"http://{said['host']}:{said['port']}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if drained is not None:
            await drained


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


async def test_both_serve_health_and_metrics_and_end_well_on_sigterm(
    nats_server: str, tmp_path: Path
) -> None:
    nats = ("--nats-url", nats_server)
    emulated = ("--engine", "emulated", "--drafter", "emulated", "--depth", "3")
    verifier_flags = (*emulated, "--verifier-id", "processes-1", *nats)
    async with (
        running("specedge_scheduler", "--group", "processes", *nats, cwd=tmp_path) as scheduler,
        running("specedge_verifier", *verifier_flags, cwd=tmp_path) as verifier,
    ):
        for service in (scheduler, verifier):
            assert (await service.ready())["status"] == "ready"
            assert "live" in await service.text("/live")
        while "specedge_verifiers 1.0" not in await scheduler.text("/metrics"):
            await asyncio.sleep(0.05)
        exposed = await verifier.text("/metrics")
        for name in (
            "specedge_verify_seconds",
            "specedge_verify_batch_size",
            "specedge_kv_cache_usage_ratio",
            "specedge_generation_tokens_total",
            "specedge_verifier_busy_seconds_total",
            "specedge_hosted_drafter_works 1.0",
            "specedge_model_load_seconds",
            "specedge_build_info",
            "specedge_nats_connected 1.0",
        ):
            assert name in exposed

        for service in (verifier, scheduler):
            service.process.send_signal(signal.SIGTERM)
            assert await service.process.wait() == 0


async def test_a_bad_setting_is_named_and_nothing_starts(tmp_path: Path) -> None:
    for module in ("specedge_scheduler", "specedge_verifier"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "--http-port", "many"),
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        _, said = await process.communicate()

        assert process.returncode == 2
        assert b"http_port" in said


@pytest.mark.parametrize("setting", ["--model", "--drafter"])
async def test_a_model_that_does_not_exist_ends_the_verifier_with_a_reason(
    setting: str, nats_server: str, tmp_path: Path
) -> None:
    engine = "emulated" if setting == "--drafter" else "torch"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "specedge_verifier", "--log-format", "json"),
        *("--nats-url", nats_server, "--engine", engine, setting, str(tmp_path / "nothing")),
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    _, said = await process.communicate()

    assert process.returncode == 1
    assert b"ModelUnusable" in said
    assert b"Traceback" not in said


async def test_a_missing_key_is_told_before_a_model_is_looked_for(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "specedge_verifier", "--log-format", "json"),
        *("--identity-file", str(tmp_path / "no-key"), "--model", str(tmp_path / "no-model")),
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    _, said = await process.communicate()

    assert process.returncode == 1
    assert b"no usable key in" in said
    assert b"ModelUnusable" not in said


WITHOUT_A_BROKER = {
    "specedge_scheduler": (),
    "specedge_verifier": ("--engine", "emulated"),
    "specedge_edge": ("--model", "emulated", "--drafter", "emulated", "--http-port", "0"),
}


@pytest.mark.parametrize("module", WITHOUT_A_BROKER)
async def test_what_is_loaded_waits_for_a_broker_says_so_and_goes_when_told(
    module: str, tmp_path: Path
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"nats://127.0.0.1:{nobody.getsockname()[1]}"
        await _waits_and_goes(module, (*WITHOUT_A_BROKER[module], "--nats-url", url), tmp_path)


async def _waits_and_goes(module: str, flags: tuple[str, ...], cwd: Path) -> None:
    async with running(module, *flags, cwd=cwd) as service:
        while '"started"' not in await service.text("/started"):
            await asyncio.sleep(0.05)

        assert "broker" in await service.text("/ready")
        assert "specedge_nats_connected 0.0" in await service.text("/metrics")
        service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await service.process.wait() == 0


async def test_services_that_were_there_first_work_once_the_broker_is(tmp_path: Path) -> None:
    with ReservedPorts() as free:
        port = free.another()
        nats = ("--nats-url", f"nats://127.0.0.1:{port}")
        async with (
            running("specedge_scheduler", *nats, cwd=tmp_path) as scheduler,
            running("specedge_verifier", "--engine", "emulated", *nats, cwd=tmp_path) as verifier,
        ):
            assert "specedge_verifiers 0.0" in await scheduler.text("/metrics")
            async with Broker(store_dir=tmp_path / "broker", port=port):
                for service in (scheduler, verifier):
                    await service.ready()
                while "specedge_verifiers 1.0" not in await scheduler.text("/metrics"):
                    await asyncio.sleep(0.05)
