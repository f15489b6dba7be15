"""In every mode the whole system, on real (tiny) models, emits what transformers' own decoding of
the target gives: greedy, sampled, and with every sampling parameter that processes logits."""

import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
import torch

from specedge.cli.edge_client import Answer, answer_from_completion
from specedge.engine.emulated import EmulatedText
from specedge.engine.loading import Progress
from specedge.engine.ports import Drafter, NodeChoices, StepItem
from specedge.engine.reference import ReferenceDecoder
from specedge.engine.torch_draft import TorchDrafter
from specedge.engine.torch_model import LoadedModel
from specedge.engine.torch_target import TorchTarget
from specedge.link.memory import WireProfile
from specedge.lossless.measuring import work_of
from specedge.lossless.modes import Mode, Work, settings_of, what_was_missing
from specedge.params import DraftPolicy, SamplingParams
from specedge.sampling.noise import choice_seed
from specedge_edge.config import EdgeSettings
from specedge_edge.emulated_tokenizer import EMULATED_MODEL, EmulatedTokenizer
from specedge_edge.loading import Loaded
from specedge_edge.text import TextCodec
from specedge_verifier.hosted_drafting import HostedDrafter
from tests.integration.cloud_world import LIMITS, cloud
from tests.integration.edge_on_cloud import COMPLETIONS, edge_on
from tests.oracle.tiny_models import KV_BYTES, build

TEXT: Final = EmulatedText(vocab_size=300)  # enough for the tokenizer's bytes
PROMPT: Final = "to be or not to be"
ASKED: Final[list[dict[str, Any]]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 7},
    {"temperature": 1.1, "seed": 8, "top_p": 0.7, "presence_penalty": 0.5},
]
TOKENS: Final = 16
TRIES: Final = 10
POLICY: Final = DraftPolicy(depth=3, budget=12, beams=4, branch=4)
AWAY: Final = WireProfile(latency_s=0.03)  # long enough to draft ahead
NEAR: Final = WireProfile(latency_s=0.001)
SLOW_STEP_S: Final = 0.06  # long enough that what was drafted ahead arrives within a step


class SlowTarget(TorchTarget):
    """Takes its time over each step."""

    def step(self, items: Sequence[StepItem]) -> list[NodeChoices | None]:
        time.sleep(SLOW_STEP_S)
        return super().step(items)


def tiny(noise: float = 0.0) -> LoadedModel:
    """The target; with ``noise``, one that often agrees with it."""
    model = build("llama", vocab_size=TEXT.vocab_size)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = noise * float(parameter.std())
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return LoadedModel(model, None, TEXT.identity(max_context_tokens=512))


def a_drafter(*, coupled: bool) -> Drafter:
    return TorchDrafter(tiny(noise=0.02), kv_bytes=KV_BYTES, num_slots=8, coupled=coupled)


@asynccontextmanager
async def system(mode: Mode, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """What ``verify-lossless`` starts for ``mode``, in this process."""
    wanted = settings_of(mode)
    hosted = HostedDrafter(a_drafter(coupled=True), POLICY) if wanted.verifier_drafts else None

    def loader(settings: EdgeSettings, _: Progress) -> Loaded:
        tokenizer = EmulatedTokenizer(TEXT)
        drafter = a_drafter(coupled=settings.coupled) if wanted.edge_drafts else None
        codec = TextCodec(tokenizer, vocab_size=TEXT.vocab_size)
        return Loaded(EMULATED_MODEL, codec, tokenizer.fingerprint, drafter)

    async with cloud() as world:
        await world.start_scheduler()
        is_ahead = mode is Mode.SENT_AHEAD
        kind = SlowTarget if is_ahead else TorchTarget
        target = kind(tiny(), num_slots=8, kv_bytes=KV_BYTES)
        limits = LIMITS.model_copy(update={"ahead": 64 if is_ahead else 0})
        await world.start_verifier("verifier-1", target=target, drafter=hosted, limits=limits)
        policy = {"depth": POLICY.depth, "budget": POLICY.budget}
        async with edge_on(
            world, folder, wire=NEAR if is_ahead else AWAY, loader=loader, **policy, **wanted.edge
        ) as client:
            yield client


def expected(prompt: list[int], fields: dict[str, Any]) -> list[int]:
    seed = choice_seed(fields.get("seed", 0), 0)
    params = dataclasses.replace(SamplingParams(**fields), seed=seed)
    decoded = ReferenceDecoder(tiny()).sample(
        np.array(prompt, dtype=np.int32), params, max_tokens=TOKENS, stop_ids=(TEXT.stop_id,)
    )
    return decoded.tokens.tolist()


async def ask(client: httpx.AsyncClient, fields: dict[str, Any]) -> Answer:
    """One answer; nobody else may ask meanwhile, or a drafter that is busy drafts nothing ahead."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS, "return_token_ids": True, **fields}
    return answer_from_completion((await client.post(COMPLETIONS, json=body)).json())


@pytest.mark.parametrize("mode", list(Mode))
async def test_the_tokens_are_the_plain_decoders(mode: Mode, tmp_path: Path) -> None:
    works: list[Work] = []
    async with system(mode, tmp_path) as client:
        # A machine that others use too may be late with all that was sent ahead, hardly every time.
        while len(works) < TRIES and (not works or what_was_missing(mode, works)):
            answers = [await ask(client, fields) for fields in ASKED]
            works.append(work_of(answers))

            for answer, fields in zip(answers, ASKED, strict=True):
                assert list(answer.token_ids) == expected(list(answer.prompt_token_ids), fields)
    assert what_was_missing(mode, works) is None
