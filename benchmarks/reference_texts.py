"""The target's own continuations of the prompts, decoded once by the engine and kept on disk.

What the target chooses does not depend on any drafter, so the verdict on a drafted tree can be told
from these texts alone: drafters are compared without running the target again. Many prompts, each
at all temperatures, are decoded together, one row each a step.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.figures import OUT, say
from benchmarks.prompt_set import Prompt
from specedge.engine.loading import load_tokenizer, resolve_model
from specedge.engine.ports import Choosing, StepItem, TargetEngine
from specedge.params import SamplingParams, StopRule
from specedge.sampling.noise import choice_seed
from specedge.tree.token_tree import IntArray, TokenTree

FOLDER: Final = OUT / "references"
PROMPTS_AT_ONCE: Final = 24
PREFILL_CHUNK_TOKENS: Final = 256
KV_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """One continuation: ``prompt`` (p,) and ``output`` (g,) int32, a stop id last if one was met.

    stop  the model's stop ids, and the length that was asked for
    """

    prompt_id: str
    category: str
    prompt: IntArray
    output: IntArray
    params: SamplingParams
    stop: StopRule


class ReferenceTexts:
    """The continuations by ``model`` (a name or a folder) of at most ``max_tokens`` tokens in fp32,
    in a file of ``folder`` that belongs to these very weights."""

    def __init__(
        self, model: str, *, max_tokens: int, cache_dir: Path, folder: Path = FOLDER
    ) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._cache_dir = cache_dir
        resolved = resolve_model(model, cache_dir)
        self._tokenizer = load_tokenizer(resolved)
        self._path = folder / f"{_fingerprint(resolved)}-{max_tokens}.json"
        self._known: dict[str, Any] = {"stop_ids": [], "outputs": {}}
        if self._path.is_file():
            self._known = orjson.loads(self._path.read_bytes())

    def of(
        self, prompts: Sequence[Prompt], temperature: float, *, also: Sequence[float] = ()
    ) -> list[Reference]:
        """Of each prompt at ``temperature``. What is not known yet is decoded now, at the
        temperatures ``also`` too, which shares the work on the prompts."""
        temperatures = dict.fromkeys((temperature, *also))
        asked = [
            [self._ask(prompt, each) for each in temperatures]
            for prompt in prompts
            if self._key(self._ask(prompt, temperature)) not in self._known["outputs"]
        ]
        if asked:
            self._decode(asked)
        return [self._told(self._ask(prompt, temperature)) for prompt in prompts]

    def _ask(self, prompt: Prompt, temperature: float) -> Reference:
        """A reference without its output."""
        seed = int.from_bytes(hashlib.blake2b(prompt.text.encode(), digest_size=8).digest())
        return Reference(
            prompt.id,
            prompt.category,
            self._chat_ids(prompt),
            np.empty(0, dtype=np.int32),
            SamplingParams(temperature=temperature, seed=choice_seed(seed, 0)),
            StopRule(frozenset(self._known["stop_ids"]), self._max_tokens),
        )

    def _chat_ids(self, prompt: Prompt) -> IntArray:
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.text}], tokenize=False, add_generation_prompt=True
        )
        return np.array(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)

    def _key(self, asked: Reference) -> str:
        digest = hashlib.blake2b(asked.prompt.tobytes(), digest_size=8)
        return f"{digest.hexdigest()}@{asked.params.temperature:g}"

    def _told(self, asked: Reference) -> Reference:
        return Reference(
            asked.prompt_id,
            asked.category,
            asked.prompt,
            np.array(self._known["outputs"][self._key(asked)], dtype=np.int32),
            asked.params,
            StopRule(frozenset(self._known["stop_ids"]), self._max_tokens),
        )

    def _decode(self, asked: list[list[Reference]]) -> None:
        engine = _load_engine(self._model, self._cache_dir)
        self._known["stop_ids"] = list(engine.identity.stop_ids)
        for begin in range(0, len(asked), PROMPTS_AT_ONCE):
            group = asked[begin : begin + PROMPTS_AT_ONCE]
            say(f"the target decodes prompts {begin + 1} … {begin + len(group)} of {len(asked)}")
            for reference, output in decode_together(engine, group, self._max_tokens):
                self._known["outputs"][self._key(reference)] = output
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(orjson.dumps(self._known))


def decode_together(
    engine: TargetEngine, groups: Sequence[Sequence[Reference]], max_tokens: int
) -> list[tuple[Reference, list[int]]]:
    """The outputs of all references. A group's share one prompt, which is computed once."""
    lanes = [lane for group in groups for lane in _prefilled(engine, group, max_tokens)]
    stops = frozenset(engine.identity.stop_ids)
    running = list(lanes)
    while running:
        chosen = engine.step([lane.item() for lane in running])
        for lane, choices in zip(running, chosen, strict=True):
            assert choices is not None, "a lane's item has a tree"
            lane.output.append(int(choices.choice[0]))
        running = [
            lane
            for lane in running
            if lane.output[-1] not in stops and len(lane.output) < max_tokens
        ]
    for lane in lanes:
        engine.release(lane.slot)
    return [(lane.reference, lane.output) for lane in lanes]


@dataclass(slots=True, eq=False)
class _Lane:
    """One reference under way: rows of all but its last token are in ``slot``."""

    reference: Reference
    slot: Any
    output: list[int]

    def item(self) -> StepItem:
        """The last token's row; the choice at it is the next token."""
        generated = np.array(self.output, dtype=np.int32)
        committed = np.concatenate([self.reference.prompt, generated])
        tree = TokenTree.root_only(int(committed[-1]))
        choosing = Choosing(self.reference.params, committed, len(self.reference.prompt))
        return StepItem(self.slot, len(committed) - 1, committed[-1:], tree, choosing)


def _prefilled(
    engine: TargetEngine, group: Sequence[Reference], max_tokens: int
) -> Iterator[_Lane]:
    prompt = group[0].prompt
    first = engine.lease(len(prompt) + max_tokens)
    num_rows = len(prompt) - 1
    for start in range(0, num_rows, PREFILL_CHUNK_TOKENS):
        chunk = prompt[start : min(start + PREFILL_CHUNK_TOKENS, num_rows)]
        engine.step([StepItem(first, start, chunk)])
    yield _Lane(group[0], first, [])
    for reference in group[1:]:
        slot = engine.lease(len(prompt) + max_tokens)
        engine.copy_rows(first, slot, num_rows)
        yield _Lane(reference, slot, [])


def _load_engine(model: str, cache_dir: Path) -> TargetEngine:
    # Here, since a run whose texts are all known needs no torch for them.
    from specedge.engine.torch_model import load_target_model
    from specedge.engine.torch_target import TorchTarget

    loaded = load_target_model(model, cache_dir=cache_dir, dtype="fp32")
    return TorchTarget(loaded, num_slots=4 * PROMPTS_AT_ONCE, kv_bytes=KV_BYTES)


def _fingerprint(resolved: Path | str) -> str:
    """Of everything in the model's folder; a hub name stands for itself."""
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(resolved, str):
        digest.update(resolved.encode())
        return digest.hexdigest()
    for file in sorted(resolved.iterdir()):
        if file.suffix in {".json", ".jinja", ".safetensors"}:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()
