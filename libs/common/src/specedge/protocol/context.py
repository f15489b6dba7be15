"""A session's context on its way: cut into chunks at the edge, put together at the verifier.

Chunks may come twice and in any order. Knows nothing of states.
"""

from collections.abc import Iterator

import numpy as np

from specedge.ids import Round
from specedge.protocol.codec import encode_context
from specedge.protocol.messages import MAX_CHUNK_TOKENS, ContextHeader, SessionParams
from specedge.protocol.token_log import TokenLog
from specedge.tree.token_tree import BoolArray, IntArray


def context_chunks(log: TokenLog, params: SessionParams, round_: Round) -> Iterator[bytes]:
    """The whole of ``log`` as chunk payloads, in order, for the round sent next."""
    total = len(log)
    for start in range(0, total, MAX_CHUNK_TOKENS):
        header = ContextHeader(
            round=round_, off=start, total=total, hash=log.hash_at(total), params=params
        )
        yield encode_context(header, log.view(start, min(start + MAX_CHUNK_TOKENS, total)))


class ContextAssembly:
    """One context coming in. Its first header stands for all: chunks of another round, length or
    hash do not belong to it."""

    __slots__ = ("_is_here", "header", "num_received", "tokens")

    def __init__(self, header: ContextHeader) -> None:
        self.header = header
        self.num_received = 0
        self.tokens: IntArray = np.zeros(header.total, dtype=np.int32)
        self._is_here: BoolArray = np.zeros(header.total, dtype=np.bool_)

    @property
    def is_complete(self) -> bool:
        """Whether every token came. Whether they are the right ones, the hash must tell."""
        return self.num_received == len(self.tokens)

    def owns(self, header: ContextHeader) -> bool:
        """Whether a chunk with this header is a piece of this context."""
        return self._name(header) == self._name(self.header)

    def add(self, header: ContextHeader, ids: IntArray) -> bool:
        """Take in a chunk that this context owns; False if it brought nothing new."""
        span = slice(header.off, header.off + len(ids))
        num_new = len(ids) - int(self._is_here[span].sum())
        self.tokens[span] = ids
        self._is_here[span] = True
        self.num_received += num_new
        return num_new > 0

    @staticmethod
    def _name(header: ContextHeader) -> tuple[int, int, str]:
        return header.round, header.total, header.hash
