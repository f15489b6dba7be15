"""The text of emulated models: every token a pure function of all tokens before it.

A prefix is known by a hash folded token by token, so a wrong, missing or misplaced token changes
everything after it. Knows neither slots nor trees nor time. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from specedge.engine.ports import ModelIdentity
from specedge.params import SamplingParams, StopRule
from specedge.sampling.noise import GAMMA, mix
from specedge.tree.token_tree import IntArray

NO_IDS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class EmulatedText:
    """What an emulated target writes. Two with equal fields write the same.

    seed        tells emulated models apart
    stop_id     the end-of-text id
    stop_every  mean number of tokens between two end-of-text ids; 0: they never come
    """

    vocab_size: int = 32_000
    seed: int = 0
    stop_id: int = 2
    stop_every: int = 0

    @property
    def start(self) -> int:
        """Hash of the empty prefix."""
        return mix(self.seed + GAMMA)

    def fold(self, prefix: int, token: int) -> int:
        """Hash of a prefix and one more token."""
        return mix((prefix ^ (token + 1)) + GAMMA)

    def fold_all(self, tokens: Sequence[int] | IntArray) -> int:
        """Hash of a whole prefix."""
        prefix = self.start
        for token in tokens:
            prefix = self.fold(prefix, int(token))
        return prefix

    def choice(self, prefix: int, params: SamplingParams, masked: frozenset[int] = NO_IDS) -> int:
        """The token after a prefix, never one of ``masked``.

        Of the parameters only the seed has an effect, and only if they are not greedy.
        """
        draw = mix(prefix + GAMMA) if params.is_greedy else mix(prefix ^ mix(params.seed + GAMMA))
        while True:
            token = self._token(draw)
            if token not in masked:
                return token
            draw = mix(draw + GAMMA)

    def identity(self, max_context_tokens: int = 32_768) -> ModelIdentity:
        """Names and fingerprints of an emulated model that writes this."""
        fingerprint = f"{mix(hash_fields(self)):016x}"
        return ModelIdentity(
            name="emulated",
            revision=str(self.seed),
            weights_fingerprint=fingerprint,
            tokenizer_fingerprint=fingerprint,
            vocab_size=self.vocab_size,
            stop_ids=(self.stop_id,),
            max_context_tokens=max_context_tokens,
        )

    def _token(self, draw: int) -> int:
        if self.stop_every and draw % self.stop_every == 0:
            return self.stop_id
        token = (draw >> 32) % (self.vocab_size - 1)
        return token + (token >= self.stop_id)  # every id but the stop id


def hash_fields(text: EmulatedText) -> int:
    """64 bits that tell one emulated text from another."""
    folded = 0
    for part in (text.vocab_size, text.seed, text.stop_id, text.stop_every):
        folded = mix((folded ^ part) + GAMMA)
    return folded


def emulated_continuation(
    prompt: Sequence[int] | IntArray,
    stop: StopRule,
    params: SamplingParams | None = None,
    text: EmulatedText | None = None,
) -> list[int]:
    """What plain decoding after ``prompt`` yields: the reference for every run on emulated
    engines. Ends with a stop id, or after ``stop.max_tokens``."""
    params = params or SamplingParams()
    text = text or EmulatedText()
    prefix = text.fold_all(prompt)
    generated: list[int] = []
    while len(generated) < stop.max_tokens:
        is_early = len(generated) < params.min_tokens
        token = text.choice(prefix, params, stop.stop_ids if is_early else NO_IDS)
        generated.append(token)
        if token in stop.stop_ids:
            break
        prefix = text.fold(prefix, token)
    return generated
