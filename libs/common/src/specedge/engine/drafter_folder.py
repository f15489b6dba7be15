"""Drafters that borrow their target's embedding and head: how they are stored, and loaded.

A Hugging Face folder with one more file. ``model.safetensors`` holds what is the drafter's own
(its layers and final norm, and ``head_tokens``); ``drafter.json`` says which target it was made for
and which of the target's tensors it reads. Matrices may be in eight bits: ``NAME`` int8, and
``NAME.scale`` for its outputs. Owns that format; how such a drafter is made is ``distill``'s.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.hub import cached_file

from specedge.engine.fingerprints import tokenizer_fingerprint
from specedge.engine.int8_rounding import rounded_to_int8, widened
from specedge.engine.loading import load_tokenizer
from specedge.engine.memory_shortage import needed_for
from specedge.engine.torch_model import DType, LoadedModel, identified, torch_dtype
from specedge.engine.wide_linear import widen_if_slow
from specedge.errors import FingerprintMismatch, ModelUnusable
from specedge.tree.token_tree import IntArray

CARD: Final = "drafter.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
HEAD_TOKENS: Final = "head_tokens"
SCALE: Final = ".scale"  # after the name of a matrix in int8
FORMATS: Final = range(1, 3)
FORMAT_INT8: Final = 2  # the first one that knows matrices in int8
StoredAs = Literal["bf16", "int8"]


class DrafterCard(BaseModel):
    """What ``drafter.json`` says.

    format               1, or 2 where matrices may be int8
    target               name of the model it drafts for
    target_weights, target_tokenizer   that model's fingerprints when the drafter was made
    embedding, head      names, in the target's checkpoint, of the tensors that are borrowed
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    target: str
    target_weights: str
    target_tokenizer: str
    embedding: str
    head: str


def is_drafter_folder(folder: Path) -> bool:
    """Whether ``folder`` holds a drafter that borrows."""
    return (folder / CARD).is_file()


def read_card(folder: Path) -> DrafterCard:
    """What the drafter in ``folder`` was made for. Raises ModelUnusable."""
    try:
        card = DrafterCard.model_validate_json((folder / CARD).read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelUnusable(f"{folder / CARD} cannot be read: {error}") from error
    if card.format not in FORMATS:
        known = f"{FORMATS.start} to {FORMATS.stop - 1}"
        raise ModelUnusable(f"{folder} has format {card.format}; this release reads {known}")
    return card


def write_drafter(
    folder: Path,
    config: Any,
    own: Mapping[str, Tensor],
    head_tokens: IntArray,
    card: DrafterCard,
    stored_as: StoredAs = "bf16",
) -> None:
    """Write ``folder`` (which may exist). ``config`` is the model's, with its number of layers;
    ``own`` are tensors by their names in the whole model; ``stored_as`` int8 means the matrices."""
    folder.mkdir(parents=True, exist_ok=True)
    config.tie_word_embeddings = False
    config.save_pretrained(folder)
    tensors: dict[str, Tensor] = {HEAD_TOKENS: torch.from_numpy(head_tokens)}
    for name, tensor in own.items():
        tensors |= _stored(name, tensor.detach().cpu(), stored_as)
    if stored_as == "int8":
        card = card.model_copy(update={"format": FORMAT_INT8})
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors leaves it to the owner alone
    (folder / CARD).write_text(json.dumps(card.model_dump(), indent=2) + "\n")


def read_own(folder: Path) -> dict[str, Tensor]:
    """What is the drafter's own, by its names in the whole model, and ``head_tokens``; matrices
    in int8 as float32. Raises ModelUnusable."""
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelUnusable(f"the drafter in {folder} cannot be loaded: {error}") from error
    scales = {name: stored.pop(name) for name in list(stored) if name.endswith(SCALE)}
    for name, scale in scales.items():
        rounded = stored.get(name.removesuffix(SCALE))
        if rounded is None or scale.shape != rounded.shape[:1] or rounded.dim() != 2:
            raise ModelUnusable(f"{folder / WEIGHTS}: {name} belongs to no matrix of its size")
        stored[name.removesuffix(SCALE)] = widened(rounded, scale)
    return stored


def load_borrowing_drafter(
    folder: Path,
    target: Path | str,
    *,
    dtype: DType = "auto",
    device: str = "cpu",
    max_context_tokens: int | None = None,
) -> LoadedModel:
    """The drafter in ``folder`` with the embedding and head of the resolved ``target``.

    Raises ModelUnusable, or FingerprintMismatch for a target of another vocabulary than the one it
    was made for.
    """
    card = read_card(folder)
    tokenizer = load_tokenizer(target)
    check_tokenizer(card, tokenizer_fingerprint(tokenizer), folder)
    wanted = torch_dtype(dtype, device, may_round=True)
    own = read_own(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"the drafter in {folder} cannot be loaded: {error}") from error
    head_tokens = _head_tokens(own, folder)
    tensors = _borrowed(target, {card.embedding, card.head})
    model = AutoModelForCausalLM.from_config(config, dtype=wanted)
    _fill(model, own, tensors[card.embedding], tensors[card.head], head_tokens)
    with needed_for(f"the weights of {folder}"):
        model = model.to(device=device, dtype=wanted).eval()
    loaded = identified(model, tokenizer, name=folder.name, max_context_tokens=max_context_tokens)
    widen_if_slow(model)
    return LoadedModel(loaded.model, loaded.tokenizer, loaded.identity, head_tokens)


def _stored(name: str, tensor: Tensor, stored_as: StoredAs) -> dict[str, Tensor]:
    """The tensors that stand for one in the file."""
    if stored_as == "bf16" or tensor.dim() != 2:
        return {name: tensor.to(torch.bfloat16).contiguous()}
    rounded, scale = rounded_to_int8(tensor)
    return {name: rounded.contiguous(), name + SCALE: scale}


def check_tokenizer(card: DrafterCard, theirs: str, folder: Path) -> None:
    """Raise FingerprintMismatch where ``theirs`` is not the tokenizer that ``card`` tells of: a
    drafter's own is the target's, so that nothing else says what it speaks."""
    if card.target_tokenizer != theirs:
        raise FingerprintMismatch(
            f"the drafter in {folder} was made for {card.target}, whose tokenizer is "
            f"{card.target_tokenizer}, not {theirs}",
            field="drafter",
            ours=card.target_tokenizer,
            theirs=theirs,
        )


def _head_tokens(own: dict[str, Tensor], folder: Path) -> IntArray:
    tokens = own.pop(HEAD_TOKENS, None)
    if tokens is None or tokens.dim() != 1:
        raise ModelUnusable(f"the drafter in {folder} does not say which tokens its head speaks of")
    return tokens.numpy().astype(np.int32)


def _fill(
    model: PreTrainedModel,
    own: Mapping[str, Tensor],
    embedding: Tensor,
    head: Tensor,
    head_tokens: IntArray,
) -> None:
    """Put all weights in place; every parameter of ``model`` must get one, of its shape."""
    rows = torch.from_numpy(head_tokens).long()
    if len(rows) and int(rows.max()) >= len(head):
        raise ModelUnusable(f"the drafter speaks of token {int(rows.max())}, its target has not")
    cut = nn.Linear(head.shape[1], len(rows), bias=False, dtype=model.dtype)
    model.set_output_embeddings(cut)
    try:
        with torch.no_grad():
            cut.weight.copy_(head[rows])
            model.get_input_embeddings().weight.copy_(embedding)
        missing, unexpected = model.load_state_dict(dict(own), strict=False)
    except RuntimeError as error:
        raise ModelUnusable(f"the drafter does not fit its target: {error}") from error
    borrowed = {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is cut.weight or parameter is model.get_input_embeddings().weight
    }
    lacking = set(missing) - borrowed
    if lacking or unexpected:
        raise ModelUnusable(
            f"the drafter lacks {sorted(lacking)[:3]} or has unknown {sorted(unexpected)[:3]}"
        )


def _borrowed(target: Path | str, names: set[str]) -> dict[str, Tensor]:
    """Tensors of the target's checkpoint by name, nothing else read."""
    found = {}
    for name in sorted(names):
        path = _file_of(target, name)
        try:
            with safe_open(path, framework="pt") as stored:
                found[name] = stored.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelUnusable(
                f"{target} has no tensor {name}, which its drafter borrows: {error}"
            ) from error
    return found


def _file_of(target: Path | str, name: str) -> Path:
    """The file of the target's checkpoint that holds tensor ``name``."""
    index = _checkpoint_file(target, INDEX)
    if index is not None:
        shard = json.loads(index.read_text())["weight_map"].get(name, WEIGHTS)
        path = _checkpoint_file(target, shard)
    else:
        path = _checkpoint_file(target, WEIGHTS)
    if path is None:
        raise ModelUnusable(f"{target} has no safetensors, whose embedding its drafter borrows")
    return path


def _checkpoint_file(target: Path | str, name: str) -> Path | None:
    if isinstance(target, Path):
        return target / name if (target / name).is_file() else None
    found = cached_file(
        target,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found is not None else None
