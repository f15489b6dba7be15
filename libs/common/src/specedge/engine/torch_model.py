"""Loading a causal language model with transformers, and saying what it is.

Owns dtype and device choice, the identity of a loaded model, and its fingerprint's samples. Where
a model comes from is ``loading``'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from specedge.engine import model_fit
from specedge.engine.fingerprints import (
    logical_vocab_size,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from specedge.engine.loading import (
    Progress,
    load_tokenizer,
    model_name,
    no_progress,
    resolve_model,
)
from specedge.engine.memory_shortage import needed_for
from specedge.engine.ports import ModelIdentity
from specedge.engine.wide_linear import widen_if_slow
from specedge.errors import ModelUnusable
from specedge.tree.token_tree import IntArray

DType = Literal["fp32", "bf16", "auto"]

SAMPLED_TENSORS: Final = 32
SAMPLED_ELEMENTS: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in evaluation mode on its device, its tokenizer, and what it is.

    head_tokens  (v,) int32, for a drafter whose head speaks of the frequent tokens only: the token
                 that each of its v rows stands for. None: one row for every token, in order
    """

    model: PreTrainedModel
    tokenizer: Any
    identity: ModelIdentity
    head_tokens: IntArray | None = None


def load_target_model(
    name_or_folder: str,
    *,
    cache_dir: Path,
    dtype: DType = "auto",
    device: str = "cpu",
    max_context_tokens: int | None = None,
    may_round: bool = False,
    on_progress: Progress = no_progress,
) -> LoadedModel:
    """Resolve, load and identify a causal language model.

    ``max_context_tokens`` lowers the model's own limit; ``may_round`` as in ``torch_dtype``. Raises
    ModelUnusable.
    """
    resolved = resolve_model(name_or_folder, cache_dir, on_progress)
    on_progress("tokenizer", 0.0)
    tokenizer = load_tokenizer(resolved)
    on_progress("weights", 0.0)
    disable_progress_bar()  # ours is on_progress
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(resolved), dtype=torch_dtype(dtype, device, may_round=may_round)
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnusable(f"{name_or_folder} cannot be loaded: {error}") from error
    with needed_for(f"the weights of {name_or_folder}"):
        model = model.to(device).eval()
    on_progress("weights", 1.0)
    name = model_name(name_or_folder)
    loaded = identified(model, tokenizer, name=name, max_context_tokens=max_context_tokens)
    widen_if_slow(model)  # last: the fingerprint is of the weights as they were stored
    return loaded


def identified(
    model: PreTrainedModel, tokenizer: Any, *, name: str, max_context_tokens: int | None = None
) -> LoadedModel:
    """Attach to a model what it is. Raises ModelUnusable if no tokenizer's id has an embedding."""
    limit = model_fit.context_limit(model.config.get_text_config())
    rows = model.get_input_embeddings().weight.shape[0]
    vocab_size = min(logical_vocab_size(tokenizer), rows)
    identity = ModelIdentity(
        name=name,
        revision=getattr(model.config, "_commit_hash", None) or "local",
        weights_fingerprint=weights_fingerprint(model.config.to_dict(), _samples(model)),
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        vocab_size=vocab_size,
        # A configuration may name an end that the model cannot say.
        stop_ids=tuple(end for end in stop_ids(model, tokenizer) if end < vocab_size),
        max_context_tokens=min(limit, max_context_tokens or limit),
    )
    return LoadedModel(model, tokenizer, identity)


def stop_ids(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """The end-of-text ids, ascending: those that ``generate`` would stop at."""
    sources = (model.generation_config, model.config, tokenizer)
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return tuple(sorted({int(token) for token in np.atleast_1d(ids)}))
    return ()


def torch_dtype(dtype: DType, device: str, *, may_round: bool = False) -> torch.dtype:
    """``auto`` is bf16 on a GPU that computes in it. On a CPU it is fp32, in which a text repeats
    token for token whatever its rounds were like; in bf16 near ties tip over within some dozens of
    tokens. For a drafter, which ``may_round``, it is bf16 on a CPU that computes in it."""
    if dtype == "auto":
        fast = _has_bf16_cores(device) and (device != "cpu" or may_round)
        return torch.bfloat16 if fast else torch.float32
    return torch.float32 if dtype == "fp32" else torch.bfloat16


def _has_bf16_cores(device: str) -> bool:
    """Whether it computes in bf16; older processors cannot, and NVIDIA's older ones emulate it."""
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    if not device.startswith("cuda"):
        return True
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _samples(model: PreTrainedModel) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """A few hundred spread elements of a few dozen spread tensors, as bfloat16 bytes."""
    tensors = sorted(model.state_dict().items())
    stride = max(1, len(tensors) // SAMPLED_TENSORS)
    for name, tensor in tensors[::stride]:
        yield name, tuple(tensor.shape), _sample(tensor)


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, len(flat) // SAMPLED_ELEMENTS)
    sample = flat[::step][:SAMPLED_ELEMENTS].to("cpu", torch.bfloat16)
    return sample.contiguous().view(torch.int16).numpy().tobytes()
