"""Tiny random models of several families, made from their configs, and the plain forward pass that
the engine is compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gemma4 import Gemma4TextConfig
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.gpt_oss import GptOssConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen3 import Qwen3Config

from specedge.engine.ports import ModelIdentity
from specedge.engine.torch_model import LoadedModel
from specedge.engine.torch_target import TorchTarget

VOCAB_SIZE = 151
WINDOW = 9  # shorter than every context the tests use
KV_BYTES = 8 << 20

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: dict[str, Any] = {**_SHAPE, "num_key_value_heads": 2}
_HEADS: dict[str, Any] = {**_GROUPED, "head_dim": 16}
_MIXED = ["sliding_attention", "full_attention"] * 2

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_HEADS),
    "gemma2": lambda: Gemma2Config(
        **_HEADS,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=4.0,
        query_pre_attn_scalar=11,
    ),
    "gemma3": lambda: Gemma3TextConfig(**_HEADS, sliding_window=WINDOW, layer_types=_MIXED),
    # Its layers differ in query heads per KV head, and in the heads' size.
    "gemma4": lambda: Gemma4TextConfig(
        **_HEADS,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        global_head_dim=32,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        hidden_size_per_layer_input=0,
        final_logit_softcapping=4.0,
    ),
    "phi3": lambda: Phi3Config(**_GROUPED, sliding_window=WINDOW),
    "gpt_neox": lambda: GPTNeoXConfig(**_SHAPE, rotary_pct=0.5),
    "mistral": lambda: MistralConfig(**_HEADS, sliding_window=WINDOW),
    "gpt_oss": lambda: GptOssConfig(
        **_HEADS,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        num_local_experts=2,
        num_experts_per_tok=1,
    ),
}
FAMILIES = sorted(CONFIGS)


def build(family: str, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> PreTrainedModel:
    """A model whose logits are far from uniform: norms of one, other weights large enough that
    every layer's attention matters."""
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    config.vocab_size = vocab_size
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 2.0 * parameter.shape[-1] ** -0.5, generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def loaded(model: PreTrainedModel, max_context_tokens: int = 512) -> LoadedModel:
    """A model as the engine takes it; there is no tokenizer behind it."""
    identity = ModelIdentity(
        name=model.config.model_type,
        revision="test",
        weights_fingerprint="0" * 16,
        tokenizer_fingerprint="0" * 16,
        vocab_size=VOCAB_SIZE,
        stop_ids=(2,),
        max_context_tokens=max_context_tokens,
    )
    return LoadedModel(model, None, identity)


def target(family: str, *, num_slots: int = 16, kv_bytes: int = KV_BYTES) -> TorchTarget:
    """A target engine on a fresh copy of the family's model."""
    return TorchTarget(loaded(build(family)), num_slots=num_slots, kv_bytes=kv_bytes)


def plain_logits(
    model: PreTrainedModel, tokens: Sequence[int] | NDArray[np.int32]
) -> NDArray[np.float32]:
    """(V,) float32: the model's own forward over ``tokens``, its logits at the last of them."""
    ids = torch.as_tensor(np.asarray(tokens, dtype=np.int64))[None]
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]
    result: NDArray[np.float32] = logits.float().numpy()
    return result


def random_tokens(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    """(count,) int32, none of them special."""
    return rng.integers(3, VOCAB_SIZE, size=count).astype(np.int32)
