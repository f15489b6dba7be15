"""Hosted sessions with torch on both sides, a target and a drafter beside it: KV rows of either one
that were misplaced would show as tokens other than the plain decoder's."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch

from specedge.engine.reference import ReferenceDecoder
from specedge.engine.torch_draft import TorchDrafter
from specedge.engine.torch_model import LoadedModel
from specedge.engine.torch_target import TorchTarget
from specedge.params import DraftPolicy, SamplingParams
from specedge_verifier.hosted_drafting import HostedDrafter
from tests.integration.cloud_world import TEXT, ScriptedEdge, cloud, hosted
from tests.oracle.tiny_models import KV_BYTES, build, loaded

POLICY = DraftPolicy(depth=4, budget=10, beams=4, branch=4, floor=0.01)
PROMPTS = ([5, 6, 7, 8, 9], list(range(10, 60)))
NOISE = 0.02  # in the drafter's weights: it is right about half of the time
SAMPLED = {"temperature": 0.7, "seed": 11, "top_k": 30}


def a_model(noise: float = 0.0) -> LoadedModel:
    """The tiny target, or one like it: the more noise in its weights, the less they agree."""
    model = loaded(build("llama"))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    emulated = TEXT.identity()
    identity = replace(
        model.identity,
        name=emulated.name,
        tokenizer_fingerprint=emulated.tokenizer_fingerprint,
    )
    return replace(model, identity=identity)


def plainly(prompt: list[int], max_tokens: int, params: dict[str, float]) -> list[int]:
    decoder = ReferenceDecoder(a_model())
    asked = SamplingParams(**params)
    tokens = np.array(prompt, dtype=np.int32)
    return decoder.sample(tokens, asked, max_tokens=max_tokens).tokens.tolist()


@pytest.mark.parametrize("params", [{}, SAMPLED], ids=["greedy", "sampled"])
async def test_hosted_sessions_with_a_draft_model_get_the_plain_decoders_tokens(
    params: dict[str, float],
) -> None:
    torch.set_num_threads(1)
    target = TorchTarget(a_model(), num_slots=4, kv_bytes=KV_BYTES)
    drafter = TorchDrafter(a_model(NOISE), kv_bytes=KV_BYTES, num_slots=4, num_children=4)
    async with cloud() as world:
        await world.start_scheduler()
        verifier = await world.start_verifier(
            "v1", target=target, drafter=HostedDrafter(drafter, POLICY)
        )
        edges = [await ScriptedEdge(world, letter).start() for letter in "AB"]
        sessions = [
            edge.session(prompt, 30, hosted(12), **params)
            for edge, prompt in zip(edges, PROMPTS, strict=True)
        ]

        await asyncio.gather(*(session.run() for session in sessions))

        for session, prompt in zip(sessions, PROMPTS, strict=True):
            assert session.tokens == plainly(prompt, 30, params)
        tried = verifier.count("specedge_hosted_draft_tokens_total")
        assert 10 < verifier.count("specedge_hosted_accepted_tokens_total") < tried / 2
        assert verifier.count("specedge_hosted_draft_failures_total") == 0
