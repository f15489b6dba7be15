"""The engine on the built-in model: its tokens are those of transformers' own decoders."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specedge.engine.drafter_folder import load_borrowing_drafter
from specedge.engine.loading import DEFAULT_MODEL, load_tokenizer
from specedge.engine.ports import Choosing, StepItem
from specedge.engine.reference import ReferenceDecoder
from specedge.engine.shipped import shipped_drafter
from specedge.engine.torch_draft import TorchDrafter
from specedge.engine.torch_model import LoadedModel, load_target_model
from specedge.engine.torch_target import TorchTarget
from specedge.params import SamplingParams
from specedge.tree.path import Walk, reroot, walk
from specedge.tree.token_tree import IntArray, TokenTree
from tests.oracle.conftest import CACHE_DIR
from tests.oracle.random_trees import path_to
from tests.oracle.tiny_models import plain_logits

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

KV_BYTES = 128 << 20
NUM_TOKENS = 32
QUESTIONS = [
    "What is the capital of France?",
    "Repeat exactly: the quick brown fox jumps over the lazy dog.",
    "Write a Python function that adds two numbers and explain it in three sentences.",
]


@pytest.fixture(scope="module")
def plain(real_model_folder: Path) -> LoadedModel:
    return load(real_model_folder)


@pytest.fixture(scope="module")
def engine(real_model_folder: Path) -> TorchTarget:
    return TorchTarget(load(real_model_folder), num_slots=8, kv_bytes=KV_BYTES)


@pytest.fixture(scope="module")
def prompts(real_model_folder: Path) -> list[IntArray]:
    tokenizer = load_tokenizer(real_model_folder)
    return [encode(tokenizer, question) for question in QUESTIONS]


def load(folder: Path) -> LoadedModel:
    return load_target_model(str(folder), cache_dir=CACHE_DIR, dtype="fp32")


def encode(tokenizer: Any, question: str) -> IntArray:
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)


class Decoding:
    """One session on the engine: rounds of a tree around the expected text, with wrong branches."""

    def __init__(
        self, engine: TorchTarget, prompt: IntArray, expected: IntArray, params: SamplingParams
    ) -> None:
        self.engine, self.expected, self.params = engine, expected, params
        self.prompt_len, self.committed = len(prompt), prompt
        self.slot = engine.lease(len(prompt))
        self.start = 0
        self.tree = TokenTree.root_only(int(prompt[-1]))

    @property
    def generated(self) -> IntArray:
        return self.committed[self.prompt_len :]

    def item(self, rng: np.random.Generator) -> StepItem:
        """A tree whose first branch is right for up to four tokens; the rest is noise."""
        done = len(self.generated)
        right = self.expected[done : done + int(rng.integers(0, 5))]
        noise = rng.integers(10, 40_000, size=4)
        tokens = [int(self.committed[-1]), *right.tolist(), *noise.tolist()]
        parents = [-1, *range(len(right)), *rng.integers(0, len(right) + 1, size=4).tolist()]
        self.tree = TokenTree.from_parents(tokens, parents)
        choosing = Choosing(self.params, self.committed, self.prompt_len)
        return StepItem(self.slot, self.start, self.committed[self.start :], self.tree, choosing)

    def on_choices(self, choice: IntArray) -> None:
        verdict: Walk = walk(self.tree, choice)
        base = len(self.committed)
        self.engine.keep(self.slot, base, verdict.path)
        self.start = base + len(verdict.path)
        tokens = [*self.tree.token[verdict.path].tolist(), verdict.bonus]
        self.committed = np.concatenate([self.committed, np.array(tokens, dtype=np.int32)])


def decode_together(
    engine: TorchTarget, prompts: list[IntArray], expected: list[IntArray], params: SamplingParams
) -> list[Decoding]:
    rng = np.random.default_rng(0)
    sessions = [
        Decoding(engine, prompt, text, params)
        for prompt, text in zip(prompts, expected, strict=True)
    ]
    while running := [s for s in sessions if len(s.generated) < len(s.expected)]:
        found = engine.step([session.item(rng) for session in running])
        for session, choices in zip(running, found, strict=True):
            assert choices is not None
            session.on_choices(choices.choice)
    for session in sessions:
        engine.release(session.slot)
    return sessions


def test_greedy_text_of_several_sessions_is_that_of_generate(
    plain: LoadedModel, engine: TorchTarget, prompts: list[IntArray]
) -> None:
    decoder = ReferenceDecoder(plain)
    stops = plain.identity.stop_ids
    expected = [
        decoder.greedy(prompt, max_tokens=NUM_TOKENS, stop_ids=stops).tokens for prompt in prompts
    ]

    sessions = decode_together(engine, prompts, expected, SamplingParams())

    for session in sessions:
        np.testing.assert_array_equal(session.generated[: len(session.expected)], session.expected)


def test_sampled_text_is_that_of_the_reference_decoder_with_the_same_seed(
    plain: LoadedModel, engine: TorchTarget, prompts: list[IntArray]
) -> None:
    params = SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1, seed=2026)
    decoder = ReferenceDecoder(plain)
    expected = [decoder.sample(prompt, params, max_tokens=NUM_TOKENS).tokens for prompt in prompts]

    sessions = decode_together(engine, prompts, expected, params)

    for session in sessions:
        np.testing.assert_array_equal(session.generated[:NUM_TOKENS], session.expected)


def test_the_reference_at_temperature_zero_is_generate(
    plain: LoadedModel, prompts: list[IntArray]
) -> None:
    decoder = ReferenceDecoder(plain)
    stops = plain.identity.stop_ids

    by_generate = decoder.greedy(prompts[0], max_tokens=16, stop_ids=stops, with_scores=True)
    by_sampler = decoder.sample(
        prompts[0], SamplingParams(), max_tokens=16, stop_ids=stops, with_scores=True
    )

    np.testing.assert_array_equal(by_generate.tokens, by_sampler.tokens)
    assert by_generate.scores is not None and by_sampler.scores is not None
    np.testing.assert_allclose(by_generate.scores, by_sampler.scores, atol=1e-3)
    np.testing.assert_array_equal(by_generate.scores.argmax(axis=1), by_generate.tokens)


def test_a_drafter_of_the_same_model_is_always_right(
    plain: LoadedModel, prompts: list[IntArray], real_model_folder: Path
) -> None:
    drafter = TorchDrafter(load(real_model_folder), kv_bytes=KV_BYTES, num_children=2)
    expected = ReferenceDecoder(plain).greedy(prompts[2], max_tokens=12).tokens
    session = drafter.open(prompts[2], SamplingParams())
    tree = TokenTree.root_only(int(prompts[2][-1]))
    for done in range(0, 12, 3):
        node = 0
        for _ in range(2):
            expansion = session.expand(tree, np.array([node], dtype=np.int32))
            tokens = [*tree.token, *expansion.token[0]]
            likeliest = len(tree)
            tree = TokenTree.from_parents(tokens, [*tree.parent, node, node])
            node = likeliest
        path = tree.token[path_to(tree, node)]
        np.testing.assert_array_equal(path, expected[done : done + 2])

        rerooting, tree = reroot(tree, expected[done : done + 3])
        session.reroot(rerooting)


def test_the_shipped_drafter_foresees_half_of_what_the_target_says(
    plain: LoadedModel, prompts: list[IntArray], real_model_folder: Path
) -> None:
    folder = shipped_drafter(DEFAULT_MODEL)
    assert folder is not None
    drafter = load_borrowing_drafter(folder, real_model_folder, dtype="fp32")
    assert drafter.head_tokens is not None
    right = total = 0
    for prompt in prompts:
        said = ReferenceDecoder(plain).greedy(
            prompt, max_tokens=48, stop_ids=plain.identity.stop_ids
        )
        text = np.concatenate([prompt, said.tokens]).astype(np.int64)
        with torch.inference_mode():
            logits = drafter.model(input_ids=torch.from_numpy(text)[None]).logits[0]
        foreseen = drafter.head_tokens[logits.argmax(dim=1).numpy()][len(prompt) - 1 : -1]
        right += int((foreseen == said.tokens).sum())
        total += len(said.tokens)
    assert right > 0.5 * total


def test_the_shipped_drafter_is_small(real_model_folder: Path) -> None:
    folder = shipped_drafter(DEFAULT_MODEL)
    assert folder is not None
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 32_000_000
    assert (folder / "model.safetensors").stat().st_size < 0.1 * sum(
        file.stat().st_size for file in real_model_folder.glob("*.safetensors")
    )


def test_the_cached_model_loads_in_seconds_and_its_tokenizer_without_torch(
    real_model_folder: Path,
) -> None:
    begin = time.process_time()  # not what other processes take from us
    load(real_model_folder)
    seconds = time.process_time() - begin
    script = (
        "import sys; from pathlib import Path\n"
        "from specedge.engine.loading import DEFAULT_MODEL, load_tokenizer, resolve_model\n"
        "tokenizer = load_tokenizer(resolve_model(DEFAULT_MODEL, Path(sys.argv[1])))\n"
        "print(len(tokenizer), 'torch' in sys.modules)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(CACHE_DIR)], capture_output=True, text=True, check=True
    )

    assert seconds < 5
    assert said.stdout.split() == ["49152", "False"]


def test_the_model_says_what_it_is(plain: LoadedModel) -> None:
    identity = plain.identity

    assert identity.vocab_size == 49152
    assert identity.stop_ids == (2,)
    assert identity.max_context_tokens == 8192
    assert identity.name.startswith(DEFAULT_MODEL)


def test_logits_at_every_node_are_those_of_a_plain_forward(
    plain: LoadedModel, engine: TorchTarget, prompts: list[IntArray]
) -> None:
    rng = np.random.default_rng(3)
    prompt = prompts[1]
    tree = TokenTree.from_parents(
        [int(prompt[-1]), *rng.integers(10, 40_000, size=7).tolist()], [-1, 0, 0, 1, 2, 2, 4, 6]
    )
    slot = engine.lease(len(prompt) + 8)
    choosing = Choosing(SamplingParams(), prompt, len(prompt), num_logprobs=5)
    (found,) = engine.step([StepItem(slot, 0, prompt, tree, choosing)])
    engine.release(slot)

    assert found is not None and found.logprobs is not None
    for node in range(len(tree)):
        text = np.concatenate([prompt, tree.token[path_to(tree, node)]])
        wanted = torch.from_numpy(plain_logits(plain.model, text)).double().log_softmax(0)
        top = wanted.topk(5)
        np.testing.assert_array_equal(found.logprobs.token[node], top.indices.numpy())
        np.testing.assert_allclose(found.logprobs.logprob[node], top.values.numpy(), atol=1e-3)
        assert found.choice[node] == top.indices[0]
