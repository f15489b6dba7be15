"""The committed tokens of one session with the hash at every base, as both ends keep them.

Knows nothing of rounds, states or KV rows.
"""

from collections.abc import Sequence

import numpy as np

from specedge.protocol.messages import SessionParams
from specedge.protocol.prefix_hash import PrefixHash
from specedge.tree.token_tree import IntArray

_FIRST_CAPACITY = 256


class TokenLog:
    """Grows at its end and can be cut back; its hash starts from ``params``. One owner; arrays
    handed out are read-only views that stay as they were, whatever happens to the log later."""

    __slots__ = ("_base", "_hashes", "_seen", "_tokens", "params")

    def __init__(self, params: SessionParams, tokens: IntArray | Sequence[int] = ()) -> None:
        self.params = params
        self._base = 0
        self._hashes = PrefixHash(params)
        self._tokens = self._seen = np.empty(0, dtype=np.int32)
        self._move(max(_FIRST_CAPACITY, len(tokens)))
        self.extend(tokens)

    def __len__(self) -> int:
        """The base: how many tokens are committed."""
        return self._base

    @property
    def root(self) -> int:
        """The last committed token."""
        return int(self._tokens[self._base - 1])

    def extend(self, tokens: IntArray | Sequence[int]) -> None:
        """Commit more tokens."""
        if len(tokens) == 0:
            return
        start, end = self._base, self._base + len(tokens)
        if end > len(self._tokens):
            self._move(2 * end)
        self._tokens[start:end] = tokens
        self._hashes.extend(self._tokens[start:end].tolist())
        self._base = end

    def truncate(self, base: int) -> None:
        """Keep the first ``base`` tokens only."""
        if base < self._base:
            self._hashes.truncate(base)
            self._base = base
            # What follows must not be written over in place: a step may still read the old view.
            self._move(len(self._tokens))

    def hash_at(self, base: int) -> str:
        """The hash over the first ``base`` tokens, 16 hex digits."""
        return self._hashes.at(base)

    def hash_after(self, tokens: Sequence[int]) -> str:
        """The hash if ``tokens`` were committed too; changes nothing."""
        return self._hashes.after(tokens)

    def agrees(self, base: int, hash_: str) -> bool:
        """Whether somebody with that base and hash holds a prefix of this log."""
        return base <= self._base and self._hashes.at(base) == hash_

    def view(self, start: int = 0, end: int | None = None) -> IntArray:
        """Tokens [start, end) as a read-only (end - start,) int32 view."""
        return self._seen[start : self._base if end is None else end]

    def _move(self, capacity: int) -> None:
        """The committed tokens into an array of their own; ``_seen`` is it, read-only."""
        tokens = np.empty(capacity, dtype=np.int32)
        tokens[: self._base] = self._tokens[: self._base]
        self._tokens, self._seen = tokens, tokens.view()
        self._seen.flags.writeable = False


def num_common(one: IntArray, other: IntArray) -> int:
    """How many leading tokens two arrays share."""
    length = min(len(one), len(other))
    if length == 0:
        return 0
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length
