"""What the plain decoder says, remembered: several runs over the same prompts decode each once.

Loads the model only when something is asked that is not known yet.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import orjson

from specedge.engine.reference import Decoded, ReferenceDecoder
from specedge.lossless.asking import Task
from specedge.params import SamplingParams
from specedge.sampling.noise import choice_seed
from specedge.tree.token_tree import FloatArray, IntArray


class PlainDecoding:
    """What the plain decoder says, at any temperature. ``stop_ids`` are the model's own."""

    def __init__(self, decoder: ReferenceDecoder, stop_ids: Sequence[int]) -> None:
        self._decoder = decoder
        self._stop_ids = tuple(stop_ids)

    def decode(self, prompt: IntArray, task: Task, *, with_scores: bool = False) -> Decoded:
        """Greedy by ``transformers.generate``; sampled by the reference sampler."""
        decoded: Decoded
        if task.temperature == 0:
            decoded = self._decoder.greedy(
                prompt,
                max_tokens=task.max_tokens,
                stop_ids=self._stop_ids,
                with_scores=with_scores,
            )
        else:
            decoded = self._decoder.sample(
                prompt,
                SamplingParams(temperature=task.temperature, seed=choice_seed(task.seed, 0)),
                max_tokens=task.max_tokens,
                stop_ids=self._stop_ids,
                with_scores=with_scores,
            )
        return decoded


class PlainTexts:
    """Plain continuations by prompt and task. ``load`` is called at most once; ``path`` keeps what
    was decoded for later runs with the same model and dtype, which is its owner's to see to."""

    def __init__(self, load: Callable[[], PlainDecoding], path: Path | None = None) -> None:
        self._load = load
        self._path = path
        self._loaded: PlainDecoding | None = None
        self._known: dict[str, list[int]] = {}
        if path is not None and path.is_file():
            self._known = orjson.loads(path.read_bytes())

    def tokens(self, prompt: IntArray, task: Task) -> list[int]:
        """The plain decoder's tokens."""
        key = _key(prompt, task)
        if key not in self._known:
            self._known[key] = self._decoding().decode(prompt, task).tokens.tolist()
        return self._known[key]

    def scores(self, prompt: IntArray, task: Task) -> FloatArray:
        """(g, V) float32, whose maxima the tokens are. Decodes again: only a divergence asks."""
        scores = self._decoding().decode(prompt, task, with_scores=True).scores
        assert scores is not None, "asked for"
        return scores

    def save(self) -> None:
        """Keep what is known now, if there is a file to keep it in."""
        if self._path is not None:
            self._path.write_bytes(orjson.dumps(self._known))

    def _decoding(self) -> PlainDecoding:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


def _key(prompt: IntArray, task: Task) -> str:
    said = f"{task.temperature!r} {task.seed} {task.max_tokens} ".encode()
    return sha256(said + np.asarray(prompt, dtype=np.int32).tobytes()).hexdigest()
