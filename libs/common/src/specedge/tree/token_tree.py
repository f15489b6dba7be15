"""The draft as a value: a tree of tokens hanging off the last committed token.

Knows nothing of KV slots, devices, rounds or messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TokenTree:
    """n nodes in topological order; node 0 is the root. Arrays are read-only by agreement.

    token    (n,) int32    vocabulary ids; token[0] is the last committed token
    parent   (n,) int32    parent[0] == -1, and 0 <= parent[i] < i for every other node
    depth    (n,) int32    0 at the root, parent's depth + 1 elsewhere
    logprob  (n,) float32  drafter's score of the node given its parent, in nats; 0.0 at the root
    value    (n,) float32  probability that the node is accepted; 1.0 at the root, never rises
                           along a path
    """

    token: IntArray
    parent: IntArray
    depth: IntArray
    logprob: FloatArray
    value: FloatArray

    def __len__(self) -> int:
        """Number of nodes, the root included."""
        return len(self.token)

    @property
    def num_drafted(self) -> int:
        """Number of nodes below the root."""
        return len(self.token) - 1

    @classmethod
    def root_only(cls, token: int) -> "TokenTree":
        """The empty draft on ``token``."""
        return cls.from_parents([token], [-1])

    @classmethod
    def from_parents(
        cls,
        token: Sequence[int] | IntArray,
        parent: Sequence[int] | IntArray,
        logprob: FloatArray | None = None,
        value: FloatArray | None = None,
    ) -> "TokenTree":
        """Build from tokens and parents, the root first; depth is computed.

        Raises ValueError if a parent does not precede its child, or lengths differ.
        """
        token_array = np.asarray(token, dtype=np.int32)
        parent_array = np.asarray(parent, dtype=np.int32)
        n = len(token_array)
        if n == 0 or len(parent_array) != n or parent_array[0] != -1:
            raise ValueError("a tree starts with its root, whose parent is -1")
        # Plain ints: a round's tree is small, and one array element at a time is slow.
        depth = [0]
        for node, above in enumerate(parent_array[1:].tolist(), start=1):
            if not 0 <= above < node:
                raise ValueError("every parent must precede its child")
            depth.append(depth[above] + 1)
        return cls(
            token_array,
            parent_array,
            np.array(depth, dtype=np.int32),
            np.zeros(n, dtype=np.float32) if logprob is None else logprob,
            np.ones(n, dtype=np.float32) if value is None else value,
        )
