"""Fingerprints agree exactly when the tokens or the weights do."""

import subprocess
import sys
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from specedge.engine.fingerprints import (
    computed_fingerprint,
    logical_vocab_size,
    tokenizer_fingerprint,
    weights_fingerprint,
)

BYTE_LEVEL = {"a": 0, "b": 1, "Ġa": 2, "Ã©": 3, "<s>": 4}
METASPACE = {"a": 0, "b": 1, "▁a": 2, "é": 3, "<s>": 4}


def make(vocab: dict[str, int], decoder: Any, bos: str = "<s>") -> Any:
    backend = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    backend.decoder = decoder
    return TokenizersBackend(tokenizer_object=backend, bos_token=bos)


def byte_level(vocab: dict[str, int] | None = None, **options: str) -> Any:
    return make(vocab or BYTE_LEVEL, decoders.ByteLevel(), **options)


def test_two_spellings_of_the_same_bytes_have_one_fingerprint() -> None:
    sentencepiece = make(METASPACE, decoders.Metaspace())

    assert tokenizer_fingerprint(sentencepiece) == tokenizer_fingerprint(byte_level())


def test_a_byte_token_of_sentencepiece_is_its_byte() -> None:
    by_name = make({"a": 0, "<0x62>": 1}, decoders.Sequence([decoders.ByteFallback()]), bos="a")
    by_letter = byte_level({"a": 0, "b": 1}, bos="a")

    assert tokenizer_fingerprint(by_name) == tokenizer_fingerprint(by_letter)


@pytest.mark.parametrize(
    "vocab",
    [
        {**BYTE_LEVEL, "a": 1, "b": 0},
        {**BYTE_LEVEL, "c": 5},
        {"a": 0, "b": 1, "Ġb": 2, "Ã©": 3, "<s>": 4},
    ],
)
def test_another_id_token_or_byte_changes_the_fingerprint(vocab: dict[str, int]) -> None:
    assert tokenizer_fingerprint(byte_level(vocab)) != tokenizer_fingerprint(byte_level())


def test_another_special_token_changes_the_fingerprint() -> None:
    assert tokenizer_fingerprint(byte_level(bos="a")) != tokenizer_fingerprint(byte_level())


def test_a_chat_template_does_not_change_the_fingerprint() -> None:
    templated = byte_level()
    templated.chat_template = "{{ messages }}"

    assert tokenizer_fingerprint(templated) == tokenizer_fingerprint(byte_level())


def test_the_logical_vocabulary_ends_with_the_highest_id() -> None:
    assert logical_vocab_size(byte_level()) == 5


SAMPLES = [("layer.weight", (2, 2), b"\x01\x02")]


def test_weights_fingerprints_tell_configs_and_weights_apart_but_not_how_they_are_stored() -> None:
    ours = weights_fingerprint({"hidden_size": 4, "rope": {"theta": 1.0}}, SAMPLES)
    elsewhere = {"dtype": "bfloat16", "rope": {"theta": 1.0}, "hidden_size": 4, "use_cache": False}

    assert weights_fingerprint(elsewhere, SAMPLES) == ours
    assert weights_fingerprint({"hidden_size": 5, "rope": {"theta": 1.0}}, SAMPLES) != ours
    assert weights_fingerprint({"hidden_size": 4, "rope": {"theta": 2.0}}, SAMPLES) != ours
    assert weights_fingerprint(elsewhere, [("layer.weight", (2, 2), b"\x01\x03")]) != ours
    assert weights_fingerprint(elsewhere, [("layer.weight", (4, 1), b"\x01\x02")]) != ours


def test_neither_loading_a_tokenizer_nor_its_fingerprint_imports_torch(tmp_path: Any) -> None:
    byte_level().save_pretrained(tmp_path)
    script = (
        "import sys; from pathlib import Path\n"
        "from specedge.engine.fingerprints import tokenizer_fingerprint\n"
        "from specedge.engine.loading import load_tokenizer, resolve_model\n"
        "tokenizer = load_tokenizer(resolve_model(sys.argv[1], Path('unused')))\n"
        "print(tokenizer_fingerprint(tokenizer), 'torch' in sys.modules)\n"
    )

    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert said.stdout.split() == [tokenizer_fingerprint(byte_level()), "False"]


def test_the_same_weights_in_another_dtype_are_another_model_on_the_wire() -> None:
    exact, rounded = (computed_fingerprint("ab12", dtype) for dtype in ("float32", "bfloat16"))

    assert exact == "ab12"
    assert rounded != exact
    assert computed_fingerprint("ab13", "bfloat16") != rounded
