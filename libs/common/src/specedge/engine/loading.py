"""From a model's name to something that can be loaded: the built-in model, folders, hub names.

Imports no torch and no transformers at import time, and none at all for the tokenizer of a model
that is already there: an edge without a model drafter starts from this file. What needs torch is
in ``torch_model``.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specedge.engine import hub
from specedge.engine.default_model import DEFAULT_MODEL as DEFAULT_MODEL
from specedge.errors import ModelUnusable

# Told (phase, fraction done in [0, 1]) from the calling thread, often.
Progress = Callable[[str, float], None]


def no_progress(_phase: str, _fraction: float) -> None:
    """A Progress that nobody listens to."""


def resolve_model(
    name_or_folder: str, cache_dir: Path, on_progress: Progress = no_progress
) -> Path | str:
    """A folder that holds the model, or a hub name that transformers resolves by itself.

    The built-in model is fetched and converted into ``cache_dir`` once, in child processes; two
    callers at once wait for one another. Raises ModelUnusable when it cannot be had.
    """
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if name_or_folder == DEFAULT_MODEL:
        from specedge.engine import builtin_model

        return builtin_model.ensure(cache_dir.expanduser(), on_progress)
    if name_or_folder.startswith((".", "/", "~")):
        raise ModelUnusable(f"there is no folder {name_or_folder}")
    hub.check_name(name_or_folder)
    return name_or_folder


def model_name(name_or_folder: str) -> str:
    """The name a model goes by: a folder's own name, or the hub name."""
    folder = Path(name_or_folder).expanduser()
    return folder.resolve().name if folder.is_dir() else name_or_folder


def load_tokenizer(resolved: Path | str) -> Any:
    """The tokenizer of a resolved model, with its chat template: transformers' tokenizer object.

    Without torch wherever the model has a ``tokenizer.json``; else transformers finds the class,
    which imports torch if it is installed. Raises ModelUnusable.
    """
    # AutoTokenizer reaches for every model class and so for torch; this base class does not.
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    try:
        if isinstance(resolved, str) or (resolved / "tokenizer.json").is_file():
            return TokenizersBackend.from_pretrained(str(resolved))
    except (OSError, ValueError) as error:
        if isinstance(resolved, Path):
            raise ModelUnusable(f"the tokenizer in {resolved} cannot be loaded: {error}") from error
    return _load_any_tokenizer(resolved)


def _load_any_tokenizer(resolved: Path | str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(resolved))
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"no tokenizer for {resolved}: {error}") from error


def num_stored_weights(name_or_folder: str) -> int | None:
    """How many weights a model's or drafter's folder holds; None for what is no such folder."""
    from safetensors import SafetensorError, safe_open  # only where a model is loaded

    files = sorted(Path(name_or_folder).expanduser().glob("*.safetensors"))
    total = 0
    try:
        for file in files:
            with safe_open(file, framework="np") as stored:
                shapes = [stored.get_slice(key).get_shape() for key in stored.keys()]  # noqa: SIM118
            total += sum(math.prod(shape) for shape in shapes)
    except (OSError, SafetensorError):  # whoever loads it says what is wrong with it
        return None
    return total if files else None
