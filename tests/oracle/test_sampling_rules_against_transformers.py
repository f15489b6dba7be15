"""The reference sampler masks and scales what transformers' own processors do."""

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from specedge.params import SamplingParams
from specedge.sampling.rules import process_logits

VOCAB = 700
STOP_ID = 5


def plain(params: SamplingParams, prompt_len: int) -> LogitsProcessorList:
    """The same rules, of those that transformers has, in its own order."""
    return LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(params.repetition_penalty),
            MinNewTokensLengthLogitsProcessor(prompt_len, params.min_tokens, [STOP_ID]),
            TemperatureLogitsWarper(params.temperature),
            TopKLogitsWarper(params.top_k or VOCAB),
            TopPLogitsWarper(params.top_p),
            MinPLogitsWarper(params.min_p),
        ]
    )


RULES = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, repetition_penalty=1.3),
    SamplingParams(temperature=1.0, repetition_penalty=0.8, min_tokens=12),
    SamplingParams(temperature=1.0, min_tokens=8),
    SamplingParams(temperature=1.3, top_k=40),
    SamplingParams(temperature=1.0, top_k=VOCAB + 5),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=0.6, top_p=0.3),
    SamplingParams(temperature=1.0, top_p=0.999),
    SamplingParams(temperature=1.0, min_p=0.05),
    SamplingParams(
        temperature=0.8, top_k=50, top_p=0.95, min_p=0.02, repetition_penalty=1.1, min_tokens=20
    ),
]


@pytest.mark.parametrize("params", RULES, ids=str)
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_processed_logits_equal_those_of_transformers(
    params: SamplingParams, spread: float
) -> None:
    random = np.random.default_rng(17)
    for _ in range(20):
        logits = (random.normal(size=VOCAB) * spread).astype(np.float32)
        prompt = random.integers(0, VOCAB, 30, dtype=np.int32)
        generated = random.integers(0, VOCAB, 8, dtype=np.int32)

        ours = process_logits(logits, params, prompt, generated, frozenset({STOP_ID}))

        context = torch.from_numpy(np.concatenate([prompt, generated]))[None].long()
        theirs = plain(params, len(prompt))(context, torch.from_numpy(logits)[None].clone())
        assert np.array_equal(ours, theirs[0].numpy())


def test_top_k_keeps_the_same_ties_as_transformers() -> None:
    random = np.random.default_rng(3)
    logits = random.integers(0, 6, VOCAB).astype(np.float32)
    nothing = np.empty(0, dtype=np.int32)

    for top_k in (1, 2, 50, 300):
        params = SamplingParams(temperature=1.0, top_k=top_k)
        ours = process_logits(logits, params, nothing, nothing, frozenset())

        theirs = TopKLogitsWarper(top_k)(torch.empty(0), torch.from_numpy(logits)[None].clone())
        assert np.array_equal(ours, theirs[0].numpy())
