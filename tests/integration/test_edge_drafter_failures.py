"""An edge whose drafter fails says so, lets the verifier generate, and loses no token."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from specedge.engine.emulated import EmulatedDrafter, EmulatedText
from specedge.engine.failing_drafter import NAN, FailingDrafter, Fault
from specedge.engine.loading import Progress
from specedge.errors import Busy
from specedge_edge import standing
from specedge_edge.config import EdgeSettings
from specedge_edge.loading import Loaded, load
from tests.edge_world import make_tokenizer
from tests.integration.cloud_world import LIMITS, cloud
from tests.integration.edge_on_cloud import COMPLETIONS, edge_on, expected, request

FAULTS: dict[str, Exception | str] = {
    "device": RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_..."),
    "memory": MemoryError("cannot allocate 3 GiB"),
    "nan": NAN,
    "full": Busy("no 64 free rows"),
}


def with_fault(fault: Fault) -> tuple[FailingDrafter, Callable[[EdgeSettings, Progress], Loaded]]:
    """An emulated drafter that fails so, and what loads it."""
    drafter = FailingDrafter(EmulatedDrafter(EmulatedText(), agreement=(0.8,)), fault)

    def loader(settings: EdgeSettings, on_progress: Progress) -> Loaded:
        return replace(load(settings, on_progress), drafter=drafter)

    return drafter, loader


async def figure(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


@pytest.mark.parametrize("is_granted", [True, False])
@pytest.mark.parametrize("kind", FAULTS)
async def test_a_drafter_that_breaks_for_good_in_the_middle_of_a_stream_costs_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_granted: bool
) -> None:
    # It is not tried again before the answers' end, however late that comes.
    monkeypatch.setattr(standing, "REST_S", 3600.0)
    drafter, loader = with_fault(lambda number: FAULTS[kind] if number >= 7 else None)
    limits = LIMITS if is_granted else LIMITS.model_copy(update={"grant": 0})
    with capture_logs() as logs:
        async with cloud() as world:
            await world.start_scheduler()
            await world.start_verifier("verifier-1", limits=limits)
            async with edge_on(world, tmp_path, loader=loader, adaptive=False) as client:
                asked = [client.post(COMPLETIONS, json=request(60)) for _ in range(2)]
                answers = [answer.json() for answer in await asyncio.gather(*asked)]
                health = (await client.get("/health")).json()
                is_ready = (await client.get("/ready")).status_code == 200
                failures = await figure(client, "specedge_drafter_failures_total")
                refusals = await figure(client, "specedge_drafter_refusals_total")

    hosted = sum(answer["metrics"]["specedge"]["hosted_tokens"] for answer in answers)
    told = [entry["reason"] for entry in logs if entry["event"] == "drafting_failed"]
    assert [answer["choices"][0]["token_ids"] for answer in answers] == [expected(60)] * 2
    assert (hosted > 0) == is_granted
    assert is_ready
    assert drafter.num_open == 0
    if kind == "full":
        assert refusals > 0 and not told and "notes" not in health
    else:
        assert failures > 0 and len(told) == 1
        assert health["notes"]["drafter"] == told[0]


@pytest.mark.parametrize("number", range(0, 24, 3))
async def test_whichever_pass_fails_the_stream_goes_on(tmp_path: Path, number: int) -> None:
    drafter, loader = with_fault(lambda n: RuntimeError("once") if n == number else None)
    async with cloud() as world:
        await world.start_scheduler()
        await world.start_verifier("verifier-1")
        async with edge_on(world, tmp_path, loader=loader, adaptive=False) as client:
            answer = (await client.post(COMPLETIONS, json=request(80))).json()

    assert answer["choices"][0]["token_ids"] == expected(80)
    assert drafter.num_passes > number
    assert drafter.num_open == 0


@pytest.mark.parametrize("folder", ["garbage", "missing", "other-vocabulary"])
async def test_an_edge_whose_drafter_cannot_be_loaded_serves_without(
    tmp_path: Path, folder: str
) -> None:
    make_folder(tmp_path / "garbage", weights=b"\0" * 1000)
    make_folder(tmp_path / "other-vocabulary")
    with capture_logs() as logs:
        async with cloud() as world:
            await world.start_scheduler()
            await world.start_verifier("verifier-1")
            async with edge_on(world, tmp_path, drafter=str(tmp_path / folder)) as client:
                answer = (await client.post(COMPLETIONS, json=request(40))).json()
                health = (await client.get("/health")).json()
                serves = await figure(client, "specedge_drafter_serves")

    told = [entry["reason"] for entry in logs if entry["event"] == "drafter_unusable"]
    assert answer["choices"][0]["token_ids"] == expected(40)
    assert answer["metrics"]["specedge"]["hosted_tokens"] == 40
    assert health["notes"]["drafter"] == told[0]
    assert ("FingerprintMismatch" in told[0]) == (folder == "other-vocabulary")
    assert serves == 0.0


def make_folder(folder: Path, weights: bytes | None = None) -> None:
    """A tiny model with a tokenizer of its own; with ``weights`` in place of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    make_tokenizer(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=320, num_hidden_layers=1, max_position_embeddings=64, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
