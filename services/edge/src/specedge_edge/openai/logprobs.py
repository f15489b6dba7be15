"""Log-probabilities in the two shapes of the OpenAI API."""

from collections import Counter
from typing import Any, Final

from specedge_edge.answer_events import Piece
from specedge_edge.text import TextCodec

LEAST: Final = -9999.0  # stands for minus infinity, which JSON cannot say
TextOffsets = Counter[int]  # per choice: characters spelled so far


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
    starts: list[int] = []
    for spelled in tokens:
        starts.append(offsets[piece.index])
        offsets[piece.index] += len(spelled)
    return {
        "tokens": tokens,
        "token_logprobs": [_bounded(logprobs.lp) for logprobs in piece.logprobs],
        "top_logprobs": [
            {codec.spell(other): _bounded(logprob) for other, logprob in logprobs.top}
            for logprobs in piece.logprobs
        ],
        "text_offset": starts,
    }


def _entry(codec: TextCodec, token: int, logprob: float) -> dict[str, Any]:
    spelled = codec.spell(token)
    return {"token": spelled, "logprob": _bounded(logprob), "bytes": list(spelled.encode())}


def _bounded(logprob: float) -> float:
    return max(logprob, LEAST)
