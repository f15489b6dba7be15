"""Log-probabilities in the two shapes of the OpenAI API."""

import codecs
from typing import Any, Final

from specedge.protocol.messages import TokenLogprobs
from specedge_edge.answer_events import Piece
from specedge_edge.text import TextCodec

LEAST: Final = -9999.0  # stands for minus infinity, which JSON cannot say


class TextOffsets:
    """Per choice, at which character of its text each token begins: a character counts with the
    token that completes it."""

    def __init__(self) -> None:
        self._chars: dict[int, int] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def take(self, index: int, spelled: bytes) -> int:
        """Where the next token of that choice begins."""
        if index not in self._decoders:
            self._decoders[index] = codecs.getincrementaldecoder("utf-8")("replace")
        start = self._chars.get(index, 0)
        self._chars[index] = start + len(self._decoders[index].decode(spelled))
        return start


def chat_logprobs(piece: Piece, codec: TextCodec) -> dict[str, Any] | None:
    """``choices[].logprobs`` of a chat completion; None if they were not asked for."""
    if piece.logprobs is None:
        return None
    content = []
    for token, logprobs in zip(piece.tokens, piece.logprobs, strict=False):
        top = [_entry(codec, other, logprob) for other, logprob in logprobs.top]
        content.append({**_entry(codec, token, logprobs.lp), "top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(
    piece: Piece, codec: TextCodec, offsets: TextOffsets
) -> dict[str, Any] | None:
    """``choices[].logprobs`` of a text completion; None if they were not asked for.

    ``offsets`` carries the text offset from one piece of a choice to its next.
    """
    if piece.logprobs is None:
        return None
    tokens = [codec.spell(token) for token in piece.tokens]
    return {
        "tokens": [_named(spelled) for spelled in tokens],
        "token_logprobs": [_bounded(logprobs.lp) for logprobs in piece.logprobs],
        "top_logprobs": [
            _by_name(token, logprobs, codec)
            for token, logprobs in zip(piece.tokens, piece.logprobs, strict=False)
        ],
        "text_offset": [offsets.take(piece.index, spelled) for spelled in tokens],
    }


def _entry(codec: TextCodec, token: int, logprob: float) -> dict[str, Any]:
    """``bytes`` of several tokens, joined, are the text, whatever characters they share."""
    spelled = codec.spell(token)
    text = spelled.decode(errors="replace")
    return {"token": text, "logprob": _bounded(logprob), "bytes": list(spelled)}


def _by_name(token: int, logprobs: TokenLogprobs, codec: TextCodec) -> dict[str, float]:
    """The likeliest and the chosen one; of two that are spelled alike, the likelier."""
    named: dict[str, float] = {}
    for other, logprob in (*logprobs.top, (token, logprobs.lp)):
        named.setdefault(_named(codec.spell(other)), _bounded(logprob))
    return named


def _named(spelled: bytes) -> str:
    """A token by name, where there is no other place for its bytes."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _bounded(logprob: float) -> float:
    return max(logprob, LEAST)
