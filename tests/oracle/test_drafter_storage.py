"""What a drafter's folder keeps in eight bits is what an edge would round it to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from specedge.engine.drafter_folder import (
    HEAD_TOKENS,
    WEIGHTS,
    DrafterCard,
    StoredAs,
    read_card,
    read_own,
    write_drafter,
)
from specedge.engine.int8_rounding import rounded_to_int8
from specedge.errors import ModelUnusable

CARD = DrafterCard(target="some", target_weights="a", target_tokenizer="b", embedding="e", head="h")


def written(folder: Path, stored_as: StoredAs) -> dict[str, Tensor]:
    torch.manual_seed(2)
    own = {"model.layers.0.one.weight": torch.randn(48, 32), "model.norm.weight": torch.rand(32)}
    write_drafter(folder, LlamaConfig(), own, np.arange(9, dtype=np.int32), CARD, stored_as)
    return own


@pytest.mark.parametrize(("stored_as", "format_"), [("bf16", 1), ("int8", 2)])
def test_it_is_read_as_it_was_written(tmp_path: Path, stored_as: StoredAs, format_: int) -> None:
    own = written(tmp_path, stored_as)
    read = read_own(tmp_path)
    assert read_card(tmp_path).format == format_
    assert read.pop(HEAD_TOKENS).tolist() == list(range(9))
    assert read.keys() == own.keys()
    for name, tensor in own.items():
        step = tensor.abs().amax() / 127
        torch.testing.assert_close(read[name].float(), tensor, atol=float(step), rtol=0)


def test_eight_bits_round_to_themselves(tmp_path: Path) -> None:
    own = written(tmp_path, "int8")
    name = "model.layers.0.one.weight"
    rounded, scale = rounded_to_int8(own[name])
    again, scale_again = rounded_to_int8(read_own(tmp_path)[name])
    assert torch.equal(again, rounded)
    torch.testing.assert_close(scale_again, scale, atol=0, rtol=1e-6)


def test_eight_bits_are_half_of_sixteen(tmp_path: Path) -> None:
    written(tmp_path / "wide", "bf16")
    written(tmp_path / "narrow", "int8")
    stored = load_file(tmp_path / "narrow" / WEIGHTS)
    assert stored["model.layers.0.one.weight"].dtype == torch.int8
    assert stored["model.norm.weight"].dtype == torch.bfloat16, "a norm is no matrix"
    sizes = [(tmp_path / one / WEIGHTS).stat().st_size for one in ("narrow", "wide")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("damage", ["alone", "short"])
def test_a_scale_that_belongs_to_nothing_is_named(tmp_path: Path, damage: str) -> None:
    written(tmp_path, "int8")
    stored = load_file(tmp_path / WEIGHTS)
    if damage == "alone":
        del stored["model.layers.0.one.weight"]
    else:
        stored["model.layers.0.one.weight.scale"] = torch.ones(47)
    save_file(stored, tmp_path / WEIGHTS)
    with pytest.raises(ModelUnusable, match=r"layers\.0\.one\.weight\.scale"):
        read_own(tmp_path)


def test_a_folder_of_a_later_release_says_so(tmp_path: Path) -> None:
    written(tmp_path, "int8")
    card = CARD.model_copy(update={"format": 3})
    (tmp_path / "drafter.json").write_text(card.model_dump_json())
    with pytest.raises(ModelUnusable, match="format 3; this release reads 1 to 2"):
        read_card(tmp_path)
