"""The plain decoder: one token after another by transformers' own forward and cache, chosen by the
numpy reference sampler. What the system's output is compared with; shares nothing with the engine.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from specedge.engine.torch_model import LoadedModel
from specedge.params import SamplingParams
from specedge.sampling.noise import gumbel
from specedge.sampling.rules import process_logits
from specedge.tree.token_tree import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Generated tokens (g,) int32, a stop id last if one was met; and, if they were asked for, the
    scores (g, V) float32 whose maxima they are: processed logits, plus noise when sampled."""

    tokens: IntArray
    scores: FloatArray | None = None


class ReferenceDecoder:
    """Decodes plainly with ``loaded``, which must not be in use by an engine."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model: PreTrainedModel = loaded.model
        self._vocab_size = loaded.identity.vocab_size

    @torch.inference_mode()
    def greedy(
        self,
        prompt: IntArray,
        *,
        max_tokens: int,
        stop_ids: Collection[int] = (),
        with_scores: bool = False,
    ) -> Decoded:
        """``transformers.generate`` without sampling."""
        ids = torch.as_tensor(prompt, dtype=torch.long, device=self._model.device)[None]
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,  # not what the model's own file may ask for
                max_new_tokens=max_tokens,
                eos_token_id=sorted(stop_ids) or None,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_logits=with_scores,
            ),
        )
        tokens = output.sequences[0, len(prompt) :].to(torch.int32).cpu().numpy()
        if not with_scores:
            return Decoded(tokens)
        return Decoded(
            tokens, torch.cat(output.logits).float()[:, : self._vocab_size].cpu().numpy()
        )

    @torch.inference_mode()
    def sample(
        self,
        prompt: IntArray,
        params: SamplingParams,
        *,
        max_tokens: int,
        stop_ids: Collection[int] = (),
        with_scores: bool = False,
    ) -> Decoded:
        """Any sampling parameters, by the numpy reference; temperature 0 included."""
        stops = frozenset(stop_ids)
        generated: list[int] = []
        kept: list[FloatArray] = []
        pending, cache = [int(token) for token in prompt], None
        while len(generated) < max_tokens:
            ids = torch.as_tensor([pending], device=self._model.device)
            output = self._model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = output.past_key_values
            scores = self._scores(output.logits[0, -1], params, prompt, generated, stops)
            if with_scores:
                kept.append(scores)
            generated.append(int(scores.argmax()))
            if generated[-1] in stops:
                break
            pending = generated[-1:]
        tokens = np.array(generated, dtype=np.int32)
        return Decoded(tokens, np.stack(kept) if kept else None)

    def _scores(
        self,
        logits: Tensor,
        params: SamplingParams,
        prompt: IntArray,
        generated: list[int],
        stops: frozenset[int],
    ) -> FloatArray:
        row = logits[: self._vocab_size].float().cpu().numpy()
        past = np.array(generated, dtype=np.int32)
        processed = process_logits(row, params, prompt, past, stops)
        if params.is_greedy:
            return processed
        return processed + gumbel(params.seed, len(prompt) + len(past), len(processed))
