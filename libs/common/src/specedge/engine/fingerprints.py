"""What two sides compare before they speak of tokens: hashes of a tokenizer and of weights.

Imports no torch: an edge without a model fingerprints its tokenizer too. Sampled weights come in as
bytes.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

DIGITS: Final = 16
EXACT_DTYPE: Final = "float32"
# Config keys that say how a checkpoint was stored or is run, not what it computes.
_VOLATILE: Final = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "dtype",
        "output_attentions",
        "output_hidden_states",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """16 hex digits over the id → bytes table of the logical vocabulary and the special tokens.

    Two tokenizers agree iff the same ids stand for the same bytes and the same ids are special;
    names of classes, chat templates and padded embedding rows do not count.
    """
    spell = _speller(tokenizer)
    table = sorted((int(token_id), token) for token, token_id in tokenizer.get_vocab().items())
    digest = hashlib.sha256()
    for token_id, token in table:
        content = spell(token_id, token)
        digest.update(struct.pack("<II", token_id, len(content)) + content)
    special = sorted({int(token_id) for token_id in tokenizer.all_special_ids})
    digest.update(json.dumps(special).encode())
    return digest.hexdigest()[:DIGITS]


def token_bytes(tokenizer: Any) -> Callable[[int], bytes]:
    """A function that spells one token of ``tokenizer`` in bytes, which need not be whole
    characters; nothing for an id that it does not have."""
    spell = _speller(tokenizer)

    def spelled(token_id: int) -> bytes:
        token = tokenizer.convert_ids_to_tokens(token_id)
        return b"" if token is None else spell(token_id, token)

    return spelled


def _speller(tokenizer: Any) -> Callable[[int, str], bytes]:
    """From an id and its string to bytes. Added tokens are spelled as they are."""
    to_bytes = _bytes_of(tokenizer)
    added = {int(token_id) for token_id in tokenizer.added_tokens_decoder}
    return lambda token_id, token: token.encode() if token_id in added else to_bytes(token)


def logical_vocab_size(tokenizer: Any) -> int:
    """One more than the tokenizer's highest id."""
    return max(tokenizer.get_vocab().values()) + 1


def weights_fingerprint(
    config: Mapping[str, Any], samples: Iterable[tuple[str, tuple[int, ...], bytes]]
) -> str:
    """16 hex digits over ``config`` (as a dict) and sampled tensors (name, shape, sampled bytes).

    The caller samples in bfloat16, so that a model has one fingerprint in fp32 and bf16.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(_stable(config), sort_keys=True, default=str).encode())
    for name, shape, content in samples:
        digest.update(f"{name}{shape}".encode() + content)
    return digest.hexdigest()[:DIGITS]


def computed_fingerprint(weights: str, dtype: str) -> str:
    """Of weights that are computed with in ``dtype``: texts may differ between two of them, so they
    are as good as two models. That of fp32 is the weights' own."""
    if dtype == EXACT_DTYPE:
        return weights
    return hashlib.sha256(f"{weights} {dtype}".encode()).hexdigest()[:DIGITS]


def _stable(value: Any) -> Any:
    """``value`` without volatile keys, at every level; numbers are made comparable over JSON."""
    if isinstance(value, Mapping):
        return {str(k): _stable(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    return value


def _bytes_of(tokenizer: Any) -> Callable[[str], bytes]:
    """How this tokenizer spells bytes in the strings of its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    kinds = _decoder_kinds(decoder)
    if "ByteLevel" in kinds:
        return _from_byte_level
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return _from_sentencepiece
    return str.encode


def _decoder_kinds(decoder: Any) -> set[str]:
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {part["type"] for part in [state, *state.get("decoders", [])]}


def _from_byte_level(token: str) -> bytes:
    if any(char not in _BYTE_OF_CHAR for char in token):
        return token.encode()
    return bytes(_BYTE_OF_CHAR[char] for char in token)


def _from_sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: itself where it is printable,
    else the next code point from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


_BYTE_OF_CHAR: Final = _byte_level_alphabet()
