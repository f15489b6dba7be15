"""Run as a process: turn a GGUF file into a folder that loads fast, weights and tokenizer.

``python -m specedge.engine.gguf_conversion <model.gguf> <folder>``.
The folder must not exist; a failed run leaves it half made, so the caller gives a scratch path.
"""

import copy
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from specedge.engine.builtin_model import STAGE_DONE


def convert(gguf: Path, folder: Path) -> None:
    """Write ``folder`` with safetensors in fp32, config, tokenizer and chat template."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    _tell("libraries")
    tokenizer = AutoTokenizer.from_pretrained(**source)
    _tell("tokenizer")
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    _tell("weights")
    _without_quantization(loaded).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _tell("saved")


def _without_quantization(loaded: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that was never quantized: one from a GGUF refuses to be saved."""
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model


def _tell(stage: str) -> None:
    print(STAGE_DONE, stage, flush=True)  # noqa: T201 (how the parent process knows)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
