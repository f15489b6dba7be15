"""A tokenizer for emulated models, which have none: bytes for the low ids, made-up words above.

So that the whole service runs, and is measured, without any model. Its fingerprint is that of the
emulated text it belongs to.
"""

from collections.abc import Sequence
from typing import Any, Final

from specedge.engine.emulated import EmulatedText

EMULATED_MODEL: Final = "emulated"
FIRST_BYTE: Final = 16  # ids below are special: they spell nothing
NUM_BYTES: Final = 256


class EmulatedTokenizer:
    """See ``specedge_edge.text.Tokenizer``."""

    def __init__(self, text: EmulatedText) -> None:
        self._text = text
        self.chat_template = "{role}: {content}"

    def __len__(self) -> int:
        return self._text.vocab_size

    @property
    def fingerprint(self) -> str:
        """What the verifier of the same emulated text says of its tokenizer."""
        return self._text.identity().tokenizer_fingerprint

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """One id for each byte."""
        return [FIRST_BYTE + byte for byte in text.encode()]

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Bytes as they are, words as ``" w1234"``."""
        spelled = b"".join(self.spell(token_id) for token_id in token_ids)
        return spelled.decode(errors="replace")

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], *, tokenize: bool, **kwargs: Any
    ) -> str:
        """One line for each message, and the beginning of the next."""
        lines = [f"{message['role']}: {message['content']}\n" for message in conversation]
        return "".join(lines) + "assistant:"

    def spell(self, token_id: int) -> bytes:
        """One token in bytes."""
        if token_id < FIRST_BYTE:
            return b""
        if token_id < FIRST_BYTE + NUM_BYTES:
            return bytes([token_id - FIRST_BYTE])
        return f" w{token_id}".encode()
